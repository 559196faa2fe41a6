"""`encapkeras runs`: lists the runs in a folder, and how far each has come."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import RunFolderError, printable

if TYPE_CHECKING:
    from encapkeras.training.run.known_runs import KnownRun

EXAMPLES = (
    "encapkeras runs",
    "encapkeras runs runs/quickstart --json",
)
PAGE = "train.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default="runs", help="where to look (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the runs, the newest first."""
    from encapkeras.training.run.known_runs import known_runs

    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise RunFolderError(f"{printable(str(folder))} is not a folder. Give the folder that holds runs.")
    runs = known_runs(folder)
    if arguments.json:
        print(json.dumps([_plain(each) for each in runs], indent=2))
    elif runs:
        _print(runs)
    else:
        print(f"no runs in {printable(str(folder))}")
    return 0


def _plain(run: KnownRun) -> dict[str, Any]:
    started = run.started.isoformat() if run.started else None
    return {**vars(run), "folder": str(run.folder.path), "started": started}


def _print(runs: list[KnownRun]) -> None:
    from encapkeras.training.run.known_runs import can_continue

    columns: dict[str, list[str]] = {
        "run": [printable(str(run.folder.path)) for run in runs],
        "spec": [printable(run.spec or "-") for run in runs],
        "state": [run.state for run in runs],
        "epoch": ["-" if run.epoch is None else f"{run.epoch}/{run.epochs}" for run in runs],
        "validation": [_quality(run.validation_accuracy, run.validation_mean_iou) for run in runs],
        "test": [_quality(run.test_accuracy, run.test_mean_iou) for run in runs],
        "started": [f"{run.started:%Y-%m-%d %H:%M}" if run.started else "-" for run in runs],
    }
    print_table(columns, right=("epoch", "validation", "test"))
    for run in runs:
        if run.problem:
            print(f"{printable(str(run.folder.path))} is damaged: {printable(run.problem)}")
    unfinished = next((run for run in runs if can_continue(run)), None)
    if unfinished:
        print(f"continue the newest unfinished run with: {printable(unfinished.folder.resume_command)}")


def _quality(accuracy: float | None, mean_iou: float | None) -> str:
    if mean_iou is not None:
        return f"mean IoU {mean_iou:.4f}"
    return "-" if accuracy is None else f"{accuracy:.4f}"
