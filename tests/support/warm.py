"""Processes that need not import Keras and torch anew: forks of one that has them imported.

    subprocess.run([*warm_python(), "-m", "encapkeras", "train", "tiny.yaml"])

The words after it are those of `python`: `-u` and `-W...`, then `-c CODE`, `-m MODULE` or a script, then its arguments.
Output, environment, folder, exit code and signals are those of the started process, which stands between the test and
the fork: when it is killed, so is the fork, a moment later. Take `sys.executable` where the import itself is tested,
where a variable of `IMPORTED_WITH` is changed, and where nothing may happen once `SIGKILL` was sent.
"""

import atexit
import builtins
import ctypes
import gc
import io
import json
import os
import re
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path

IMPORTED_WITH = {"KERAS_BACKEND": "torch", "KERAS_HOME": "", "PYTHONHASHSEED": "", "PYTHONOPTIMIZE": ""}  # or nothing
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
COUNT_BYTES = 8
WITHOUT_DRAWINGS = "ENCAPKERAS_TESTS_WITHOUT_DRAWINGS"
IMPORTS = (
    "encapkeras.cli.main",
    "encapkeras.cli.train",
    "encapkeras.comparison",
    "encapkeras.training",
    "matplotlib.pyplot",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tensorboard.plugins.hparams.metadata",
    "torch.distributed.launcher.api",
    "torch.utils.tensorboard",
    "torchvision",
)


@cache
def warm_python() -> list[str]:
    """The words in place of `sys.executable`; begins the process with the imports, which ends with this one."""
    if not hasattr(os, "pidfd_open"):  # Linux has it
        return [sys.executable]
    folder = tempfile.mkdtemp(prefix="warm-")
    address = str(Path(folder, "s"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(16)
        command = [sys.executable, __file__, "serve", str(listening.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], start_new_session=True)

    def end() -> None:
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return [sys.executable, "-I", "-S", __file__, "start", address]


def warm_torchrun(processes: int, *options: str) -> list[str]:
    """The words before a script that so many processes run, as `torchrun` starts them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options]
    return [*warm_python(), *launcher, "--no-python", *warm_python()]


def start(address: str, words: list[str]) -> None:
    """Has a fork run these words, hands it the signals that come here, and ends as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        for number in FORWARDED:
            signal.signal(number, lambda received, frame: connection.send(bytes([received])))
        connection.connect(address)
        content = {"process": os.getpid(), "words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
        message = json.dumps(content).encode()
        socket.send_fds(connection, [len(message).to_bytes(COUNT_BYTES, "big")], [0, 1, 2])
        connection.sendall(message)
        status = int.from_bytes(_received(connection, COUNT_BYTES), "big", signed=True)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def _received(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise EOFError
        received += part
    return received


def serve(listening: socket.socket) -> tuple[dict, list[int]]:
    """Forks for each connection, until standard input ends. Only the forks return, with what they are to do."""
    watched = selectors.DefaultSelector()
    watched.register(listening, selectors.EVENT_READ, "new")
    watched.register(0, selectors.EVENT_READ, "end")
    while True:
        for key, _ in watched.select():
            if key.data == "end":
                os._exit(0)
            if key.data == "new":
                (connection, _), files = listening.accept(), []
                try:
                    length, files, _, _ = socket.recv_fds(connection, COUNT_BYTES, 3)
                    content = json.loads(_received(connection, int.from_bytes(length, "big")))
                except (ConnectionError, EOFError, ValueError):  # it was killed
                    for held in (connection, *map(os.fdopen, files)):
                        held.close()
                    continue
                process = os.fork()
                if process == 0:
                    connection.close()
                    _close(watched)
                    return content, list(files)
                for file in files:
                    os.close(file)
                ended = os.pidfd_open(process)
                watched.register(connection, selectors.EVENT_READ, (process, None))
                watched.register(ended, selectors.EVENT_READ, (process, connection))
            elif key.data[1] is None:
                _signal(watched, key.fileobj, key.data[0])
            else:
                _report(watched, key.fileobj, *key.data)


def _close(watched: selectors.BaseSelector) -> None:
    """In a fork: lets go of what belongs to others."""
    for key in list(watched.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        elif key.fileobj:
            os.close(key.fileobj)
    watched.close()


def _signal(watched: selectors.BaseSelector, connection: socket.socket, process: int) -> None:
    """Hands on what the process in between has received; when that is gone, so is the fork."""
    if connection.fileno() < 0:
        return  # it has ended in the meantime
    try:
        numbers = connection.recv(16)
    except ConnectionError:
        numbers = b""
    for number in numbers or [signal.SIGKILL]:
        os.kill(process, number)  # it is there, as nobody has waited for it yet
    if not numbers:
        watched.unregister(connection)


def _report(watched: selectors.BaseSelector, ended: int, process: int, connection: socket.socket) -> None:
    watched.unregister(ended)
    os.close(ended)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if connection.fileno() in watched.get_map():
        watched.unregister(connection)
    try:
        connection.sendall(status.to_bytes(COUNT_BYTES, "big", signed=True))
    except ConnectionError:
        pass  # it was killed, and so was the fork
    connection.close()


def become(content: dict, files: list[int], before: dict[str, str]) -> list[str]:
    """Makes this process one that was started anew; gives its words. `before`: the environment before the imports."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    environment, words = content["environment"], content["words"]
    changed = [name for name, usual in IMPORTED_WITH.items() if environment.get(name, usual) != before.get(name, usual)]
    _join_network_of(content["process"])
    os.chdir(content["folder"])
    os.environ.clear()
    os.environ.update(environment)
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    while words[0].startswith(("-u", "-W")):
        option, *words = words
        if option == "-u":
            unbuffered = True
        else:
            action, message, category = [*option.removeprefix("-W").split(":"), "", ""][:3]
            kind = getattr(builtins, category or "Warning")
            warnings.filterwarnings(action, re.escape(message), kind)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    options = {"encoding": encoding, "line_buffering": unbuffered, "write_through": unbuffered}
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding)
    sys.stdout = sys.__stdout__ = _text(1, errors or "strict", **options)
    sys.stderr = sys.__stderr__ = _text(2, "backslashreplace", **{**options, "line_buffering": True})
    if changed:
        raise SystemExit(f"{', '.join(changed)} must be set before Keras is imported: take sys.executable")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("random", "numpy.random"):
        import_module(name).seed()
    if environment.get(WITHOUT_DRAWINGS):
        import_module("torch.utils.tensorboard").SummaryWriter.add_figure = lambda *arguments, **options: None
    if environment.get("OMP_NUM_THREADS") != before.get("OMP_NUM_THREADS"):
        import_module("torch").set_num_threads(int(environment.get("OMP_NUM_THREADS") or os.cpu_count()))
    if environment.get("KERAS_TORCH_DEVICE") != before.get("KERAS_TORCH_DEVICE"):
        import_module("keras").device(environment.get("KERAS_TORCH_DEVICE") or "cuda").__enter__()
    return words


def _join_network_of(process: int) -> None:
    """Goes where the process in between is, which `ip netns exec` may have started."""
    own, other = Path("/proc/self/ns/net"), Path(f"/proc/{process}/ns/net")
    if other.exists() and other.stat().st_ino != own.stat().st_ino:
        with other.open() as network:
            ctypes.CDLL(None).setns(network.fileno(), 0)
        assert other.stat().st_ino == own.stat().st_ino


def _text(number: int, errors: str, **options):
    return io.TextIOWrapper(os.fdopen(number, "wb"), errors=errors, **options)


def run(first: str, *words: str) -> None:
    """Does what `python` does with these words."""
    if first == "-c":
        code, *arguments = words
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        exec(code, {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102
    elif first == "-m":
        sys.argv, sys.path[0] = list(words), os.getcwd()
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *words], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def main() -> None:
    if sys.argv[1] == "start":
        start(sys.argv[2], sys.argv[3:])
    before = dict(os.environ)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `main` does before torch is imported
    listening = socket.socket(fileno=int(sys.argv[2]))
    sys.path[0] = str(Path(__file__).parents[1])
    for name in IMPORTS:
        import_module(name)
    gc.freeze()
    run(*become(*serve(listening), before))


if __name__ == "__main__":
    main()
