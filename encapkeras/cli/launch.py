"""Starts the command again in several processes, by torch's own elastic launcher, which torchrun runs too."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING

from encapkeras.errors import LAUNCHED_WITH, DistributionError

if TYPE_CHECKING:
    from encapkeras.cli.arguments.devices import Launch

THREADS = "OMP_NUM_THREADS"
SOON = 10  # seconds; after 30 the launcher kills processes that are still there when one has failed
# Those that torchrun hands on; a system may lack some.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
# The words of `main` in a process that imports from where this one does.
PROGRAM = """
import sys
sys.path[:], sys.argv[:] = {path!r}, {argv!r}
try:
    from encapkeras.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(main({words!r}))
"""


def launch(wanted: Launch, words: Sequence[str]) -> int:
    """Run the command with these words in processes that train together; return its exit code.

    What the processes print is theirs: one of them tells an error. This one adds only what none of them can.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from encapkeras.data.worker_processes import usable_cores

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=wanted.processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port, as of `torchrun --standalone`
        local_addr="localhost",  # the machine's name may be unknown to its network
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    threads = os.environ.get(THREADS, str(max(1, usable_cores() // wanted.processes)))
    program = PROGRAM.format(path=sys.path, argv=sys.argv, words=list(words))
    signals = _Signals()
    with (
        _environment({THREADS: threads, LAUNCHED_WITH: wanted.option, **wanted.environment}),
        _quiet_launcher(),
        signals.handed_on(),
        ThreadPoolExecutor(1) as thread,  # signals reach the main thread, which has to be free for them
    ):
        try:
            thread.submit(elastic_launch(config, sys.executable), "-c", program).result()
        except ChildFailedError as error:
            first = error.get_first_failure()[1].timestamp
            soon = {rank: each.exitcode for rank, each in error.failures.items() if each.timestamp < first + SOON}
            return _exit_code(soon, wanted.processes, signals.received)
        except (OSError, RuntimeError, RendezvousError) as error:  # no port, no connection, no more processes
            raise DistributionError(f"the processes cannot be started: {error}") from error
    return 0


def _exit_code(codes: Mapping[int, int], count: int, received: int) -> int:
    """Return the exit code, from those of the processes; say what these could not, if a signal has ended them."""
    if received:
        if received == signal.SIGINT and codes.get(0, 1) < 0:  # it had no time to say so
            print("interrupted", file=sys.stderr)
        return 128 + received
    said = max(codes.values())
    # The launcher ends by SIGTERM what is left after the first.
    ended = next((rank for rank, code in codes.items() if code < 0 and (said < 0 or -code != signal.SIGTERM)), None)
    if ended is None:
        return said
    name = signal.Signals(-codes[ended]).name
    why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    print(
        f"process {ended} of {count} was ended by {name}{why}. Continue the run with --resume and its folder.",
        file=sys.stderr,
    )
    return DistributionError.exit_code


class _Signals:
    """Hands signals on to the processes, which end after their step; Ctrl-C once more ends them at once.

    Attributes:
        received: The first one; 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0

    @contextlib.contextmanager
    def handed_on(self) -> Iterator[None]:
        """Do so inside, for all signals but those that are ignored, as Ctrl-C is under nohup."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # Python hands signals to the main thread alone
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            listening = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
            before = {number: signal.signal(number, self._hand_on) for number in listening}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        import psutil

        again = self.received == number == signal.SIGINT
        self.received = self.received or number
        processes = psutil.Process().children(recursive=again)
        until = time.monotonic() + 1  # one that is just being started may not be seen yet
        while not processes and time.monotonic() < until:
            time.sleep(0.05)
            processes = psutil.Process().children(recursive=again)
        if not processes:  # nothing can be lost
            os.write(2, b"interrupted\n")
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if again else process.send_signal(number)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables inside, and take back what the launcher sets, too."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Keep the launcher from reporting what the processes say themselves; torch's variable LOGLEVEL lets it."""
    logger = logging.getLogger("torch.distributed.elastic")
    before, silent = logger.propagate, logging.NullHandler()
    if "LOGLEVEL" not in os.environ:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(silent)
        logger.propagate = before
