"""The runs below a folder, and how far each has come."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encapkeras.errors import EncapkerasError, RunFolderError
from encapkeras.files import open_regular, read_json, reading
from encapkeras.training.run.identity import written_spec
from encapkeras.training.run.replace_run import older_run_aside
from encapkeras.training.run.run_folder import RunFolder, folder_name

RUNS = Path("runs")
DEEPEST = 8  # folders below which runs are looked for


@dataclass(frozen=True)
class KnownRun:
    """A run in a folder; what is damaged or not there yet is None.

    Args:
        folder: Its folder.
        state: `training` while a process trains it.
        spec: The name of its spec.
        epoch: How many epochs are complete.
        epochs: `train.epochs`.
        validation_accuracy: The best so far, 0 to 1.
        test_accuracy: Of a finished run, 0 to 1.
        validation_mean_iou: The best so far, 0 to 1; None without masks.
        test_mean_iou: Of a finished run with masks, 0 to 1.
        started: When, with its time zone.
        problem: What is damaged.
    """

    folder: RunFolder
    state: Literal["finished", "unfinished", "training", "damaged"]
    spec: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    validation_mean_iou: float | None = None
    test_mean_iou: float | None = None
    started: datetime.datetime | None = None
    problem: str = ""


def known_runs(folder: Path) -> list[KnownRun]:
    """Return the runs in a folder and below, the newest first; links to folders are not followed."""
    runs = [described_run(RunFolder(path)) for path in _run_folders(folder)]
    return sorted(runs, key=lambda run: (_moment(run), str(run.folder.path)), reverse=True)


def newest_unfinished(name: str) -> RunFolder | None:
    """Return the newest run that can be continued among those that a spec of this name has made by default."""
    runs = known_runs(RUNS / folder_name(name))
    return next((run.folder for run in runs if can_continue(run)), None)


def can_continue(run: KnownRun) -> bool:
    """Whether no process trains this run, nothing of it is damaged, and it has what it is resumed from."""
    return run.state == "unfinished" and older_run_aside(run.folder.path) is None and run.folder.can_continue()


def described_run(folder: RunFolder) -> KnownRun:
    """Return what the files of a run say, never an error."""
    started = None
    try:
        environment = folder.read_environment()
        with reading(folder.environment, "the note of a training", RunFolderError):
            started = datetime.datetime.fromisoformat(environment["started"]).astimezone()
        spec = written_spec(folder)
        with reading(folder.spec, "a spec", RunFolderError):
            name, epochs = str(spec["name"]), int(spec["train"]["epochs"])
        results = _results(folder)
        with reading(folder.metrics, "a table", RunFolderError):
            rows = _rows(folder.metrics)
            best = {f"validation_{name}": _best(rows, f"val_{name}") for name in ("accuracy", "mean_iou")}
    except EncapkerasError as error:
        return KnownRun(folder, "damaged", started=started, problem=str(error).splitlines()[0])
    measured: dict[str, Any] = {**best, **results}
    state: Any = "finished" if results else "training" if _is_locked(folder) else "unfinished"
    return KnownRun(folder, state, name, len(rows), epochs, started=started, **measured)


def _best(rows: Sequence[Mapping[str, str]], metric: str) -> float | None:
    return max((float(row[metric]) for row in rows if row.get(metric)), default=None)


def _is_locked(folder: RunFolder) -> bool:
    try:
        return folder.lock.is_held_elsewhere()
    except OSError:  # this user may not write it
        return False


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "environment.json" in files or ("spec.yaml" in files and "checkpoints" in folders):
            folders.clear()
            yield Path(path)
        elif len(Path(path).relative_to(folder).parts) >= DEEPEST:
            folders.clear()


def _results(folder: RunFolder) -> dict[str, float | None]:
    if not os.path.lexists(folder.results):
        return {}
    with reading(folder.results, "the results of a training", RunFolderError):
        results = read_json(folder.results)
        accuracy, mean_iou = float(results["test_accuracy"]), results.get("test_mean_iou")
        return {"test_accuracy": accuracy, "test_mean_iou": None if mean_iou is None else float(mean_iou)}


def _rows(table: Path) -> list[dict[str, str]]:
    if not os.path.lexists(table):
        return []
    with io.TextIOWrapper(open_regular(table), "utf-8", newline="") as text:
        return list(csv.DictReader(text))


def _moment(run: KnownRun) -> float:
    if run.started is not None:
        return run.started.timestamp()
    try:
        return run.folder.path.stat().st_mtime
    except OSError:
        return 0.0
