"""Commands that end in a message: for a mistake, and for Ctrl-C."""

import contextlib
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

    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith(line_begins):
                process.send_signal(signal.SIGINT)
                break
        printed, message = process.communicate(timeout=60)
        return Interrupted(process.returncode, printed, message)


@contextlib.contextmanager
def started(command, **options):
    """A process that takes Ctrl-C and does not outlive the block, should a test fail in it."""
    with subprocess.Popen([str(word) for word in command], preexec_fn=_listen, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def _listen():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells have background jobs ignore it, and children inherit that
