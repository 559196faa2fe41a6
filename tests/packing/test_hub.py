"""Packed folders go to the hub and back, tried with a small hub on this machine."""

import base64
import http.server
import json
import re
import shutil
import threading

import pytest
from support.commands import refused

import encapkeras
from encapkeras.cli.main import main
from encapkeras.packing.packed_folder import FILES, SUMS, WEIGHTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a repository of small files needs."""

    files: dict[str, dict[str, bytes]]  # of each repository

    def log_message(self, *_):
        pass

    def answer(self, content, code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == "Bearer secret"
        if self.path == "/api/repos/create":
            name = f"user/{json.loads(sent)['name']}"
            self.files.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if self.path == "/api/validate-yaml":  # of the card's head
            return self.answer({"errors": [], "warnings": []})
        name, action = re.fullmatch(r"/api/models/(user/\w+)/(preupload|commit)/main", self.path).groups()
        if action == "preupload":
            asked = [file["path"] for file in json.loads(sent)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            return self.answer({"files": modes})
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        return self.answer({"commitUrl": address, "commitOid": COMMIT})

    def do_GET(self):
        known = {"X-Repo-Commit": COMMIT}
        about = re.match(r"/api/models/(user/\w+)(?:/revision/(\w+))?(?:\?|$)", self.path)
        if about and about[1] in self.files and about[2] in (None, "main", COMMIT):
            return self.answer({"id": about[1], "sha": COMMIT, "siblings": []})
        file = re.fullmatch(rf"/(user/\w+)/resolve/{COMMIT}/([\w.]+)", self.path)
        if file and file[2] in self.files.get(file[1], {}):
            content = self.files[file[1]][file[2]]
            return self.answer(content, ETag=f'"{len(content)}-{hash(content)}"', **known)
        missing = "RevisionNotFound" if about and about[1] in self.files else "RepoNotFound"
        return self.answer({"error": "not found"}, 404, **{"X-Error-Code": missing if about else "EntryNotFound"})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Its address, and its files."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = type("OwnHub", (Hub,), {"files": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.files
    server.shutdown()
    server.server_close()
    thread.join()


def test_there_and_back(hub, packed_once, tmp_path, capsys):
    address, files = hub
    source = shutil.copytree(packed_once, tmp_path / "source")
    (source / "notes.txt").write_text("mine")
    assert main(["push", str(source), "user/tiny", "--endpoint", address]) == 0
    assert capsys.readouterr().out == f"{address}/user/tiny/commit/{COMMIT}\n"
    assert set(files["user/tiny"]) == {*FILES, SUMS, WEIGHTS}
    files["user/tiny"]["model.py"] = b"raise SystemExit"
    output = tmp_path / "back"
    assert main(["pull", "user/tiny", "-o", str(output), "--endpoint", address]) == 0
    assert {file.name for file in output.iterdir()} == {*FILES, SUMS, WEIGHTS}
    assert all((output / name).read_bytes() == (source / name).read_bytes() for name in (*FILES, SUMS, WEIGHTS))
    assert encapkeras.load(output).class_names
    capsys.readouterr()
    words = ["pull", "user/tiny", "-o", str(output), "--endpoint", address]
    assert "already holds a packed model" in refused(capsys, *words)
    assert main([*words, "--overwrite", "--revision", "main"]) == 0


def test_what_the_hub_has_changed_is_refused(hub, packed_once, tmp_path, capsys):
    address, files = hub
    files["user/tiny"] = {file.name: file.read_bytes() for file in packed_once.iterdir()}
    files["user/tiny"]["model.keras"] += b"\0"
    output = tmp_path / "back"
    message = refused(capsys, "pull", "user/tiny", "-o", output, "--endpoint", address)
    assert message == (
        "packed folder user/tiny has been changed since it was packed: model.keras is not as SHA256SUMS says. Get the "
        "folder again from where you have it.\n"
    )
    files["user/tiny"][SUMS] = b"something else"
    message = refused(capsys, "pull", "user/tiny", "-o", output, "--endpoint", address)
    assert message == "user/tiny/SHA256SUMS cannot be read as a list of hashes: it is not as pack wrote it.\n"
    assert not output.exists()


def test_what_is_not_there_is_said(hub, packed_once, tmp_path, capsys):
    address, files = hub
    output = tmp_path / "back"

    def pulled(*words, where=address):
        return refused(capsys, "pull", *words, "-o", output, "--endpoint", where)

    assert "the hub has no such repository" in pulled("user/gone")
    assert "'no name' could not be downloaded: " in pulled("no name")
    files["user/other"] = {"README.md": b"something else"}
    files["user/part"] = {SUMS: (packed_once / SUMS).read_bytes()}
    for name in ("user/other", "user/part"):
        why = "it has no SHA256SUMS, or not all files that it names, so it is not a packed model"
        assert pulled(name) == f"'{name}' could not be downloaded: {why}\n"
    assert "it has no such revision" in pulled("user/other", "--revision", "v9")
    (packed_once.parent / "x").mkdir(exist_ok=True)
    assert "is not a packed folder" in refused(capsys, "push", packed_once.parent / "x", "user/x")
    assert not output.exists()


def test_no_way_to_the_hub_is_one_message(packed_once, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "secret")
    message = refused(capsys, "push", packed_once, "user/tiny", "--endpoint", "http://127.0.0.1:9")
    assert "could not be uploaded to 'user/tiny': " in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("words", [("push", "a", "user/a"), ("pull", "user/a", "-o", "a")])
def test_a_missing_package_is_named(words, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(capsys, *words)
    assert message == "the Hugging Face hub needs the package huggingface_hub: pip install 'encapkeras[hub]'\n"
