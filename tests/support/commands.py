"""Commands that end in a message: for a mistake, and for Ctrl-C."""

import signal
import subprocess
from typing import NamedTuple

from encapkeras.cli.main import main


def refused(capsys, *words):
    """The message of a command that ends with exit code 2, and that nothing else was printed."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


class Interrupted(NamedTuple):
    returncode: int
    printed: str  # after the line at which it came
    message: str  # on stderr


def interrupted(command, line_begins):
    """Runs a command in a process of its own and sends it SIGINT when it prints a line that begins so."""

    def listen():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells have background jobs ignore it, and children inherit that

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=listen, **pipes)
    for line in process.stdout:
        if line.startswith(line_begins):
            process.send_signal(signal.SIGINT)
            break
    printed, message = process.communicate(timeout=60)
    return Interrupted(process.returncode, printed, message)
