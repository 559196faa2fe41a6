"""Commands in processes of their own that Ctrl-C reaches."""

import signal
import subprocess


def start(command):
    """Starts a command with its output as text; SIGINT works also where the tests run in the background."""

    def listen():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells have background jobs ignore it, and children inherit that

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=listen, **pipes)
