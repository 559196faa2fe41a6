"""Runs the commands with one fault at a random call of the operating system about their files.

    python tests/fuzz/faults.py --count 300
    python tests/fuzz/faults.py --only 17 --seed 3

A small library, compiled from `faults.c` and loaded before all others, counts the calls of the real process and has one
fail, or kills the process before it, or puts a link in place of a file. Afterwards nothing outside may have changed, no
traceback may have been printed, what there is must be whole, and the command, run again, must end as without the fault.
Prints what became of all; a finding is printed with its number, which `--only` repeats. Fails if there is any.
"""

import argparse
import concurrent.futures
import csv
import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KINDS = {
    "S": "no space",
    "A": "no permission",
    "E": "input/output error",
    "I": "interrupted call",
    "K": "SIGKILL",
    "T": "SIGTERM",
    "L": "link in place",
}
RIGHT, ERROR, ENDED, FINDING = "right result", "clear error", "killed", "anything else"
OUTCOMES = (RIGHT, ERROR, ENDED, FINDING)
LONGEST = 120  # seconds for one command
MEASURED = {"images_per_second", "seconds", "peak_memory_mib"}
BEGIN = """
import ctypes, os, sys
library = ctypes.CDLL(None)
where, kind, number, lasts, target, victim, *words = sys.argv[1:]
from encapkeras.cli.main import main
number = ctypes.c_long(int(number))
library.fault_begin(where.encode(), ctypes.c_char(kind.encode()), number, int(lasts), target.encode(), victim.encode())
code = main(words)
if kind == "-":
    print(ctypes.c_long(library.fault_seen()).value, file=open(victim, "w"))
sys.exit(code)
"""


class Found(Exception):
    """What must not be."""


@dataclass
class Command:
    """One command, what it needs, and how its end is known.

    Args:
        words: Of the command line, run in the folder.
        again: The words with which it is run after the fault, each tried if the one before is refused.
        base: A folder with what it needs, copied for each fault.
        results: What it leaves; of equal runs equal.
        targets: Files and folders that may be replaced by a link.
    """

    words: list[str]
    again: list[list[str]]
    base: Path
    results: object
    targets: list[str]
    expected: object = None
    calls: dict[str, int] = field(default_factory=dict)


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    message: str


class Faults:
    """Commands in a folder of their own, and their faults.

    Args:
        folder: For everything.
        library: The compiled `faults.c`.
    """

    def __init__(self, folder: Path, library: Path) -> None:
        from support.warm import warm_python

        self.folder = folder
        os.environ |= {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "ENCAPKERAS_TESTS_WITHOUT_DRAWINGS": "1"}
        self.python = warm_python()
        del os.environ["LD_PRELOAD"]
        self.commands = self._prepared()

    def run(self, where: Path, words, kind="-", number=0, lasts=False, target="", victim="/dev/null") -> Ended:
        """Runs a command in a folder."""
        options = [str(where), kind, str(number), str(int(lasts)), str(target), str(victim)]
        try:
            done = subprocess.run(
                [*self.python, "-c", BEGIN, *options, *words],
                cwd=where,
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired as error:
            raise Found(f"{' '.join(words)} does not end") from error
        return Ended(done.returncode, done.stdout, done.stderr)

    def _must(self, where: Path, *words: str) -> Ended:
        ended = self.run(where, words)
        assert ended.code == 0, ended.message
        return ended

    def _prepared(self) -> dict[str, Command]:
        """Makes what the commands need, and counts their calls without a fault."""
        from support.dataset_files import write_image
        from support.routing_spec import routing_spec
        from support.tiny_spec import tiny_spec, write_spec

        fresh = self.folder / "fresh"
        fresh.mkdir()
        write_spec(fresh, tiny_spec(epochs=2, resume_state={"minutes": 1e-4}))
        (fresh / "other.yaml").write_text((fresh / "tiny.yaml").read_text().replace("units: 32", "units: 16"))
        routed = self.folder / "routed"
        routed.mkdir()
        write_spec(routed, routing_spec(epochs=1))
        self._must(routed, "train", "tiny.yaml", "--run-dir", "run")
        write_image(routed / "images" / "a.png", (32, 32), mode="L")
        parts = self.folder / "parts"
        shutil.copytree(fresh, parts)
        self._must(parts, "train", "tiny.yaml", "--run-dir", "run")
        whole = self.folder / "whole"
        shutil.copytree(parts, whole)
        self._interrupt(parts)
        in_run = [
            "metrics.csv",
            "spec.yaml",
            "environment.json",
            "results.json",
            "checkpoints",
            "checkpoints/last.keras",
        ]
        in_run += ["checkpoints/best.keras", "checkpoints/resume", "tensorboard", "analysis", "plugins"]
        targets = [f"run/{name}" for name in in_run]  # not the run itself: its name is the user's to give
        train = ["train", "tiny.yaml"]
        resume = [*train, "--resume", "run"]
        compare = ["compare", "tiny.yaml", "other.yaml", "--seeds", "1", "--set", "train.epochs=1"]
        table = [f"comparison/{name}" for name in ("comparison.json", "comparison.csv", "comparison.md", "seed_0")]
        commands = {
            "train": Command([*train, "--run-dir", "run"], [resume], fresh, _of_run, targets),
            "train --resume": Command(resume, [resume], parts, _of_run, targets),
            "train --overwrite": Command(
                [*train, "--run-dir", "run", "--overwrite"],
                [[*train, "--run-dir", "run", "--overwrite"]],
                whole,
                _of_run,
                targets,
            ),
            "evaluate": Command(["evaluate", "run", "--json"], [], whole, _of_text, targets),
            "predict": Command(
                ["predict", "run", "images", "--csv", "out.csv"],
                [["predict", "run", "images", "--csv", "out.csv", "--overwrite"]],
                routed,
                functools.partial(_of_file, "out.csv"),
                ["out.csv", "images/a.png", *targets],
            ),
            "export": Command(
                ["export", "run", "--format", "keras", "-o", "out.keras"],
                [["export", "run", "--format", "keras", "-o", "out.keras", "--overwrite"]],
                whole,
                functools.partial(_of_weights, "out.keras"),
                ["out.keras", *targets],
            ),
            "analyse": Command(
                ["analyse", "run", "--images", "20"],
                [["analyse", "run", "--images", "20", "--overwrite"]],
                routed,
                functools.partial(_of_file, "run/analysis/test/routing.csv"),
                targets,
            ),
            "compare": Command(
                [*compare, "--run-dir", "comparison"],
                [[*compare, "--resume", "comparison"], [*compare, "--run-dir", "comparison"]],
                fresh,
                _of_comparison,
                table,
            ),
        }
        for name, command in commands.items():
            self._measure(name, command)
        return commands

    def _interrupt(self, folder: Path) -> None:
        """Leaves a run as a training does that is killed late."""
        shutil.rmtree(folder / "run")
        words = ["train", "tiny.yaml", "--run-dir", "run"]
        calls = self._count(folder, words, "K")
        shutil.rmtree(folder / "run")
        ended = self.run(folder, words, "K", calls * 3 // 4)
        assert ended.code != 0

    def _count(self, folder: Path, words, kind: str) -> int:
        """How many calls of a kind a command makes: all, where none of them is to fail."""
        count = self.folder / f"count{threading.get_ident()}"
        ended = self.run(folder, words, "-", 0, victim=count)
        assert ended.code == 0, ended.message
        return int(count.read_text())

    def _measure(self, name: str, command: Command) -> None:
        folder = self._copy(command, "measured")
        ended = self.run(folder, command.words)
        assert ended.code == 0, f"{name}: {ended.message}"
        command.expected = command.results(folder, ended)
        shutil.rmtree(folder)
        folder = self._copy(command, "measured")
        command.calls = {"-": self._count(folder, command.words, "-")}
        shutil.rmtree(folder)

    def _copy(self, command: Command, name: str) -> Path:
        return Path(shutil.copytree(command.base, self.folder / name, symlinks=True))

    def fault(self, seed: int, number: int) -> tuple[str, str, str]:
        """Has one fault happen; gives the kind, the outcome, and what there is to say of it."""
        chance = random.Random(f"{seed} {number}")  # noqa: S311
        name = list(self.commands)[number % len(self.commands)]
        kind = chance.choice(list(KINDS))
        command = self.commands[name]
        at = chance.randrange(1, command.calls["-"] + 1)
        lasts, target = chance.random() < 0.5, chance.choice(command.targets)
        place = self.folder / f"fault_{number}"
        place.mkdir()
        folder = self._copy(command, f"fault_{number}/work")
        victim = place / "victim"
        (victim / "tensorboard").mkdir(parents=True)
        (victim / "file").write_text("precious\n" * 1000)
        if (folder / "run").is_dir():
            (folder / "run" / "plugins").mkdir(exist_ok=True)
            (folder / "run" / "plugins" / "mine.py").symlink_to(victim / "file")
        by = victim if chance.random() < 0.4 else victim / "file"
        words = f"{name}, {KINDS[kind]} at call {at}" + (f", {target} -> {by.name}" if kind == "L" else "")
        before = _digest(victim)
        try:
            outcome = self._outcome(command, folder, kind, at, lasts, target, by)
            if _digest(victim) != before:
                raise Found("a file outside of the folder has changed")
        except Exception as error:
            text = str(error) if isinstance(error, Found) else traceback.format_exc()
            return kind, FINDING, f"--seed {seed} --only {number}: {words}\n{text}"
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return kind, outcome, words

    def _outcome(self, command: Command, folder: Path, kind: str, at: int, lasts: bool, target: str, by: Path) -> str:
        ended = self.run(folder, command.words, kind, at, lasts, folder / target, by)
        _no_traceback(ended)
        aside = folder / f"{target}.aside"
        if kind == "L" and aside.exists() and (folder / target).is_symlink():  # nothing more was written there
            (folder / target).unlink()
            aside.rename(folder / target)
        outcome = {0: RIGHT, -9: ENDED, -15: ENDED, 143: ENDED}.get(ended.code, ERROR)
        if outcome == RIGHT and command.results(folder, ended) != command.expected:
            raise Found(f"exit status 0, but the results differ\n{ended.out}\n{ended.message}")
        if outcome == ERROR and not (ended.message + ended.out).strip():
            raise Found(f"exit status {ended.code} without a word")
        _check_whole(folder)
        if kind == "L" and aside.exists():  # as it was before the link, for what comes next
            if (folder / target).exists():
                return outcome
            aside.rename(folder / target)
        if command.again:
            self._check_again(command, folder, kind, ended)
        return outcome

    def _check_again(self, command: Command, folder: Path, kind: str, before: Ended) -> None:
        for words in command.again:
            ended = self.run(folder, words)
            _no_traceback(ended)
            _check_whole(folder)
            if ended.code == 0:
                if command.results(folder, ended) != command.expected:
                    raise Found(f"run again, it gives other results\n{before.message}\n{ended.out}\n{ended.message}")
                return
        if kind != "L":
            raise Found(f"cannot be run again: {ended.message}\nafter: {before.code} {before.message}")


def _no_traceback(ended: Ended) -> None:
    if "Traceback" in ended.message + ended.out or ended.code in (-11, -6, -7):
        raise Found(f"exit status {ended.code}\n{ended.message[-3000:]}")


def _digest(folder: Path) -> list[tuple[str, str]]:
    files = (path for path in sorted(folder.rglob("*")))
    return [(str(path), hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()) for path in files]


def _check_whole(folder: Path) -> None:
    """Files under their own names are whole; those that are not have names that nobody takes for them."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name.startswith(".") or ".aside" in str(path):
            continue
        if path.suffix in (".keras", ".pt"):
            try:
                with zipfile.ZipFile(path) as file:
                    damaged = file.testzip()
            except zipfile.BadZipFile:
                damaged = "all"
            if damaged:
                raise Found(f"{path} is torn")
        elif path.suffix == ".csv" and path.parent.name != "victim":
            rows = list(csv.reader(path.read_text().splitlines(keepends=True)))
            if path.read_text()[-1:] not in ("\n", "") or len({len(row) for row in rows}) > 1:
                raise Found(f"{path} is torn")
        elif path.suffix == ".json":
            json.loads(path.read_text())


def _of_run(folder: Path, ended: Ended):
    run = folder / "run"
    results = json.loads((run / "results.json").read_text())
    weights = [_of_weights(f"run/checkpoints/{name}.keras", folder, ended) for name in ("best", "last")]
    return (run / "metrics.csv").read_text(), {key: results[key] for key in results if key not in MEASURED}, weights


def _of_weights(name: str, folder: Path, ended: Ended):
    import h5py

    found: list[tuple[str, bytes]] = []
    with zipfile.ZipFile(folder / name) as file, file.open("model.weights.h5") as inner, h5py.File(inner) as weights:
        weights.visititems(
            lambda key, entry: found.append((key, entry[()].tobytes())) if hasattr(entry, "dtype") else None
        )
    return [hashlib.sha256(repr(entry).encode()).hexdigest() for entry in found]


def _of_text(folder: Path, ended: Ended):
    return ended.out


def _of_file(name: str, folder: Path, ended: Ended):
    return (folder / name).read_text()


def _of_comparison(folder: Path, ended: Ended):
    runs = json.loads((folder / "comparison" / "comparison.json").read_text())["runs"]
    return sorted((run["network"], run["seed"], run["results"]["test_accuracy"]) for run in runs)


def compiled(folder: Path) -> Path | None:
    """The library, or None without a C compiler."""
    compiler, library = shutil.which("gcc") or shutil.which("cc"), folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    if not compiler or not sys.platform.startswith("linux"):
        return None
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def table(counts: Counter) -> str:
    """How many of each kind became what."""
    lines = [f"{'fault':<20}{'tried':>8}" + "".join(f"{outcome:>15}" for outcome in OUTCOMES)]
    for kind, name in KINDS.items():
        own = [counts[kind, outcome] for outcome in OUTCOMES]
        lines.append(f"{name:<20}{sum(own):>8}" + "".join(f"{count:>15}" for count in own))
    return "\n".join(lines)


def run(numbers, seed: int, workers: int) -> int:
    """Has these faults happen; prints the table; gives how many findings there are."""
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        library = compiled(Path(temporary))
        if library is None:
            raise SystemExit("this needs Linux and a C compiler (gcc or cc)")
        faults = Faults(Path(temporary), library)
        print(
            "calls: " + ", ".join(f"{name} {command.calls['-']}" for name, command in faults.commands.items()),
            flush=True,
        )
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for kind, outcome, text in pool.map(functools.partial(faults.fault, seed), numbers):
                counts[kind, outcome] += 1
                if outcome == FINDING:
                    print("-" * 80, text, sep="\n", flush=True)
    print(f"seed {seed}\n{table(counts)}")
    return sum(count for (_, outcome), count in counts.items() if outcome == FINDING)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=30, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="at the same time (%(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one fault")
    arguments = parser.parse_args()
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    findings = run(numbers, arguments.seed, arguments.workers)
    print(f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
