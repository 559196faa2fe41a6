"""A small client of yaml-language-server: what an editor asks while a spec is written.

The server is `yaml-language-server` on the PATH; it talks JSON-RPC over its standard input and output.
"""

import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

SERVER = "yaml-language-server"
PATIENCE = 60  # seconds for an answer

SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}


def find_server():
    """The server's program; None if it or Node is missing."""
    return shutil.which(SERVER) if shutil.which("node") else None


class LanguageServer:
    """A running server, used as a context manager.

    Args:
        program: The server.
        folder: The folder that the editor has open.
    """

    def __init__(self, program, folder):
        self._process = subprocess.Popen(
            [program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._received = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._last_id = 0
        self._diagnostics = {}
        markdown = {"contentFormat": ["markdown"]}
        completion = {"completionItem": {"snippetSupport": False, "documentationFormat": ["markdown"]}}
        capabilities = {
            "textDocument": {"hover": markdown, "completion": completion, "publishDiagnostics": {}},
            "workspace": {"configuration": True},
        }
        self.request("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": capabilities})
        self._notify("initialized", {})
        self._notify("workspace/didChangeConfiguration", {"settings": SETTINGS})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def open(self, file: Path, text: str | None = None):
        """Opens a file, with other contents than it has if `text` is given."""
        self._diagnostics.pop(file.as_uri(), None)
        document = {
            "uri": file.as_uri(),
            "languageId": "yaml",
            "version": 1,
            "text": file.read_text() if text is None else text,
        }
        self._notify("textDocument/didOpen", {"textDocument": document})
        return Opened(self, file.as_uri(), document["text"])

    def diagnostics(self, uri):
        """What the server says of a file: (line from 1, the text that is underlined, message)."""
        while uri not in self._diagnostics:
            self._handle(self._next())
        return self._diagnostics[uri]

    def request(self, method, parameters):
        """Asks, and waits for the answer."""
        self._last_id += 1
        own = self._last_id
        self._send({"id": own, "method": method, "params": parameters})
        while True:
            message = self._next()
            if message.get("id") == own and "method" not in message:
                assert "error" not in message, message["error"]
                return message["result"]
            self._handle(message)

    def _handle(self, message):
        """Takes diagnostics, and answers what the server asks of an editor."""
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "id" in message and "method" in message:
            settings = [SETTINGS.get(item.get("section")) for item in message.get("params", {}).get("items", [])]
            self._send({"id": message["id"], "result": settings or None})

    def _notify(self, method, parameters):
        self._send({"method": method, "params": parameters})

    def _send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _next(self):
        message = self._received.get(timeout=PATIENCE)
        assert message is not None, "the language server has ended"
        return message

    def _read(self):
        stream = self._process.stdout
        while True:
            length = 0
            while line := stream.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = stream.read(length) if length else b""
            self._received.put(json.loads(body) if body else None)
            if not body:
                return


class Opened:
    """An open file; places are named by a text in it, which must stand there once."""

    def __init__(self, server, uri, text):
        self._server = server
        self._uri = uri
        self._text = text

    def problems(self):
        """What is underlined: (line from 1, the underlined text, message)."""
        lines = [*self._text.splitlines(), ""]
        found = []
        for problem in self._server.diagnostics(self._uri):
            start, end = problem["range"]["start"], problem["range"]["end"]
            last = end["character"] if start["line"] == end["line"] else None
            found.append((start["line"] + 1, lines[start["line"]][start["character"] : last], problem["message"]))
        return found

    def hover(self, text, part=None):
        """What is explained when the pointer is on `part`, the first of it within `text`."""
        answer = self._server.request("textDocument/hover", self._at(text, text.index(part or text) + 1))
        return answer["contents"]["value"] if answer else ""

    def completions(self, after):
        """What can be written after a text: label to documentation."""
        answer = self._server.request("textDocument/completion", self._at(after, len(after)))
        return {item["label"]: _text(item.get("documentation", "")) for item in answer["items"]}

    def _at(self, text, offset):
        assert self._text.count(text) == 1, text
        before = self._text[: self._text.index(text) + offset]
        position = {"line": before.count("\n"), "character": len(before) - before.rfind("\n") - 1}
        return {"textDocument": {"uri": self._uri}, "position": position}


def _text(documentation):
    return documentation["value"] if isinstance(documentation, dict) else documentation
