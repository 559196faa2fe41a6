"""A real TensorBoard in a process of its own, and questions to its HTTP API."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request


class Server:
    """A running TensorBoard."""

    def __init__(self, address):
        self.address = address

    def text(self, path, **query):
        """What it answers."""
        return self.raw(path, **query).decode()

    def raw(self, path, **query):
        """What it answers, as bytes."""
        address = f"{self.address}data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # the server below
            return answer.read()

    def json(self, path, **query):
        """What it answers, read."""
        return json.loads(self.raw(path, **query))

    def post(self, path, body):
        """What it answers to a question that is a map."""
        request = urllib.request.Request(  # noqa: S310  # the server below
            f"{self.address}data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())

    def wait_for(self, question):
        """Its first answer that is not empty: it reads the files in the background."""
        for _ in range(120):
            answer = question()
            if answer:
                return answer
            time.sleep(0.5)
        raise TimeoutError("TensorBoard has not read the files in a minute")


@contextlib.contextmanager
def tensorboard(folder):
    """Starts TensorBoard on a folder, and ends it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--load_fast=false"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            lines = iter(process.stderr.readline, "")
            yield Server(next(found[0] for line in lines if (found := re.search(r"http://\S+?:\d+/", line))))
        finally:
            process.terminate()
