"""Changes files of every format that we read, by their bytes and by their structure, and reads them.

    python tests/fuzz/files.py --formats npz idx --mutants 20000
    python tests/fuzz/files.py --seconds 360
    python tests/fuzz/files.py --formats png --seed 3 --only 4711

Each is a clear error or a right result, within five seconds and a gigabyte. All else is a finding: the first of
each kind is printed with its number, which `--only` repeats, and its file is kept. Fails if there are any.
"""

import argparse
import contextlib
import gc
import itertools
import multiprocessing
import os
import random
import re
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ERROR, SAME, OTHER, FINDING = "clear error", "same result", "other result", "anything else"
OUTCOMES = (ERROR, SAME, OTHER, FINDING)
SECONDS = 5  # of the processor, for one file
MEMORY = 2**30  # bytes beyond what the worker has at its start
LONGEST = 60  # seconds, for what waits
LONGEST_MESSAGE = 20_000
LINES = 14  # of a traceback
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.mkdir", "os.chmod")


class TooSlow(BaseException):
    """Ends what takes too long; no `Exception`, which a reader would turn into an error of ours."""


class Worker:
    """Reads changed files of one format in a folder of its own.

    Args:
        name: Of the format.
        form: The format.
        genuine: A folder with its files, which is copied.
        seed: Of all chance.
    """

    def __init__(self, name: str, form: Any, genuine: Path, seed: int) -> None:
        self.name, self.form, self.seed = name, form, seed
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.files = self.folder / "files"
        shutil.copytree(genuine, self.files)
        self.output = (self.folder / "output").open("w+b")
        self.outside: list[str] = []
        self.expected: dict[str, Any] = {}
        tempfile.tempdir = str(self.files)

    def prepare(self) -> None:
        """Reads the genuine files, and bounds what this process may do from now on."""
        for file in self.form.files:
            self.expected[file] = self.form.read(self.files / file)
        gc.freeze()  # else each collection goes through all that is imported
        sys.addaudithook(self._audit)
        for number in (1, 2):
            os.dup2(self.output.fileno(), number)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            self.outside.append(f"{event} {arguments}")
        elif event == "open":
            path, mode, flags = arguments
            if (flags or 0) & _WRITES or set(mode or "") & set("wax+"):
                self._check_inside(event, path)
        elif event in _CHANGES and (event == "os.truncate" or arguments[-1] == -1):  # else below an opened folder
            for path in arguments[:2]:
                self._check_inside(event, path)

    def _check_inside(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith(str(self.folder)) and real != os.devnull:
            self.outside.append(f"{event} {real}")

    def mutant(self, number: int) -> tuple[str, bytes, bool]:
        """The file that is changed, what it then holds, and whether it must be read as before or refused."""
        from fuzz.formats import mutant

        chance = random.Random(f"{self.seed} {self.name} {number}")  # noqa: S311
        file = chance.choice(self.form.files)
        before = (self.files / file).read_bytes()
        data, guarded = mutant(self.form, chance, file, before)
        return file, data, guarded

    def outcome(self, number: int) -> tuple[str, str, float]:
        """What becomes of a mutant, what there is to say of it, and how many seconds reading it took."""
        file, data, guarded = self.mutant(number)
        path = self.files / file
        genuine = path.read_bytes()
        path.write_bytes(data)
        begin = time.process_time()
        try:
            outcome, text = self._read(path, self.expected[file], guarded)
        finally:
            seconds = time.process_time() - begin
            path.unlink(missing_ok=True)
            path.write_bytes(genuine)
        if outcome == FINDING:
            kept = self.folder.parent / f"{self.name}_{self.seed}_{number}{path.suffix}"
            kept.write_bytes(data)
            text = f"{self.name} --seed {self.seed} --only {number} ({kept}): {text.strip()}"
        return outcome, text, seconds

    def _read(self, path: Path, expected: Any, guarded: bool) -> tuple[str, str]:
        from encapkeras.errors import EncapkerasError

        self.outside.clear()
        self.output.truncate(0)
        self.output.seek(0)
        message = ""
        with _in_time(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                found = self.form.read(path)
                outcome = SAME if found == expected else OTHER
            except EncapkerasError as error:
                outcome, message = ERROR, str(error)
            except (Exception, TooSlow, SystemExit, KeyboardInterrupt):
                return FINDING, traceback.format_exc(chain=False)
        self.output.flush()
        strange = [
            "a file that must be refused, or read as before, gives something else" * (outcome == OTHER and guarded),
            f"outside of its folder: {'; '.join(self.outside)}" * bool(self.outside),
            *(f"warning: {each.message} ({each.filename})" for each in warned if not _is_usual(each)),
            f"a message of {len(message):,} characters" * (len(message) > LONGEST_MESSAGE),
            f"printed {os.fstat(self.output.fileno()).st_size} bytes" * bool(os.fstat(self.output.fileno()).st_size),
        ]
        found_strange = "; ".join(filter(None, strange))
        return (FINDING, found_strange) if found_strange else (outcome, message)


def _is_usual(warning: warnings.WarningMessage) -> bool:
    """Whether it is ours, or one that the suite ignores, of Keras' own variables."""
    return "/encapkeras/" in warning.filename or str(warning.message).startswith("__array__ implementation doesn't")


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Campaign:
    """Workers for one format, which are replaced when they are killed.

    Args:
        name: Of the format.
        seed: Of all chance.
        workers: How many processes.
    """

    def __init__(self, name: str, seed: int, workers: int) -> None:
        from fuzz.formats import FORMATS

        self.name, self.seed, self.workers = name, seed, workers
        self.folder = Path(tempfile.mkdtemp(prefix="genuine-"))
        self.form = FORMATS[name](self.folder)
        self.counts: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self, mutants: int | None, seconds: float) -> None:
        """Reads so many mutants, or for so long."""
        self.end = time.monotonic() + seconds
        self.watched = selectors.DefaultSelector()
        try:
            for first in range(self.workers):
                self._start(first, mutants)
            while self.watched.get_map():
                for key, _ in self.watched.select(timeout=1):
                    self._take(key.data)
                for key in list(self.watched.get_map().values()):
                    if time.monotonic() - key.data["since"] > LONGEST:
                        self._lost(key.data, "does not end")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, first: int, mutants: int | None) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = os.fork()
        if process == 0:
            ours.close()
            self._work(first, mutants, theirs)
        theirs.close()
        state = {"next": first, "since": time.monotonic() + 60, "pipe": ours, "process": process, "mutants": mutants}
        self.watched.register(ours, selectors.EVENT_READ, state)

    def _work(self, first: int, mutants: int | None, pipe: Any) -> None:
        status = 1
        try:
            worker = Worker(self.name, self.form, self.folder, self.seed)
            worker.prepare()
            pipe.send((None, worker.folder, 0.0))
            for number in itertools.count(first, self.workers):
                if time.monotonic() > self.end or (mutants is not None and number >= mutants):
                    break
                pipe.send(worker.outcome(number))
            pipe.send(("end", "", 0.0))
            status = 0
        except BaseException:
            pipe.send(("end", traceback.format_exc(), 0.0))
        finally:
            os._exit(status)

    def _take(self, state: dict[str, Any]) -> None:
        try:
            outcome, text, seconds = state["pipe"].recv()
        except EOFError:
            self._lost(state, "killed its process")
            return
        state["since"] = time.monotonic()
        if outcome is None:
            state["folder"] = text
        elif outcome == "end":
            self._ended(state)
            if text:
                raise RuntimeError(text)
        else:
            self.counts[outcome] += 1
            self.slowest = max(self.slowest, seconds)
            state["next"] += self.workers
            if outcome == FINDING:
                self._note(text)

    def _note(self, text: str) -> None:
        kind = _kind(text)
        if kind not in self.findings:
            first, *lines = text.splitlines()
            print("-" * 80, first, *lines[-LINES:], sep="\n", flush=True)
        self.findings[kind] += 1

    def _lost(self, state: dict[str, Any], how: str) -> None:
        """Counts what killed its worker, and begins another after it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["process"], signal.SIGKILL)
        self._ended(state)
        self.counts[FINDING] += 1
        self._note(f"{self.name} --seed {self.seed} --only {state['next']}: {how}")
        self._start(state["next"] + self.workers, state["mutants"])

    def _ended(self, state: dict[str, Any]) -> None:
        self.watched.unregister(state["pipe"])
        state["pipe"].close()
        os.waitpid(state["process"], 0)
        if "folder" in state:
            shutil.rmtree(state["folder"], ignore_errors=True)

    def row(self) -> str:
        """A row of the table."""
        tried = sum(self.counts.values())
        return (
            f"{self.name:<10}{tried:>9,}"
            + "".join(f"{self.counts[o]:>15,}" for o in OUTCOMES)
            + f"{self.slowest:>12.2f}"
        )


def _kind(text: str) -> str:
    """What findings of the same cause have in common: the place and the type of an error, or the words."""
    said = text.partition("): ")[2] or text
    if not said.startswith("Traceback"):
        return re.sub(r"[\d,]+|/\S+|'.*?'", "_", said)[:150]
    places = re.findall(r'/(encapkeras/[^"]+)", line (\d+)', said)
    errors = re.findall(r"^([\w.]+)(?:: |$)", said, re.MULTILINE)
    return f"{':'.join(places[-1]) if places else ''} {errors[-1]}"


def only(name: str, seed: int, number: int) -> None:
    """Repeats one, and says what becomes of it."""
    from fuzz.formats import warm

    warm()
    campaign = Campaign(name, seed, 1)
    worker = Worker(name, campaign.form, campaign.folder, seed)
    for file in campaign.form.files:
        worker.expected[file] = campaign.form.read(worker.files / file)
    outcome, text, seconds = worker.outcome(number)
    print(f"{outcome}, {seconds:.2f} s\n{text}")
    shutil.rmtree(worker.folder)
    shutil.rmtree(campaign.folder)


def run(names: list[str], seed: int, mutants: int | None, seconds: float, workers: int = 2) -> int:
    """Reads mutants of these formats; prints the table; gives how many findings there are."""
    import torch
    from fuzz.formats import warm

    torch.set_num_threads(1)
    warm()
    print(f"seed {seed}", flush=True)
    print(f"{'format':<10}{'tried':>9}" + "".join(f"{outcome:>15}" for outcome in OUTCOMES) + f"{'slowest, s':>12}")
    findings: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for position, name in enumerate(names):
        campaign = Campaign(name, seed, workers)
        campaign.run(mutants, (end - time.monotonic()) / (len(names) - position))
        findings.update({f"{name}: {kind}": count for kind, count in campaign.findings.items()})
        print(campaign.row(), flush=True)
    for kind, count in findings.most_common():
        print(f"{count:>6} {kind}")
    return findings.total()


def main() -> int:
    from fuzz.formats import FORMATS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="(all)")
    parser.add_argument("--mutants", type=int, metavar="N", help="how many of each format")
    parser.add_argument("--seconds", type=float, metavar="S", help="in total, split among the formats")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (%(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one mutant of one format")
    arguments = parser.parse_args()
    if arguments.only is not None:
        for name in arguments.formats:
            only(name, arguments.seed, arguments.only)
        return 0
    if arguments.mutants is None and arguments.seconds is None:
        parser.error("give --mutants or --seconds")
    seconds = arguments.seconds if arguments.seconds is not None else 10**7
    findings = run(arguments.formats, arguments.seed, arguments.mutants, seconds, arguments.workers)
    print(f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
