"""`encapkeras evaluate RUN ... --affine`: accuracy on turned, moved and scaled images, as plot and table."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.errors import ArgumentError, printable

if TYPE_CHECKING:
    from encapkeras.analysis import AffineAccuracy

IMAGES = 1000
MEANS = {"rotation": "turned", "shift": "moved", "scale": "scaled"}


def run(arguments: argparse.Namespace) -> None:
    """Measures each run, and writes one table and one plot of all."""
    from encapkeras.analysis import affine_accuracy
    from encapkeras.analysis.affine_plot import MOST_NETWORKS

    count = IMAGES if arguments.images is None else arguments.images
    if count < 1:
        raise ArgumentError(f"--images must be at least 1; received {count}")
    if len(arguments.runs) > MOST_NETWORKS:
        raise ArgumentError(f"at most {MOST_NETWORKS} runs can stand side by side; received {len(arguments.runs)}")
    runs = [TrainedRun.open(path) for path in arguments.runs]
    names = _names(runs)
    output = Path(arguments.output) if arguments.output else runs[0].folder.analysis / "affine"
    table, plot = output / "affine.csv", output / "affine.png"
    _check_free(output, (table, plot), arguments.overwrite)
    _check_same_data_set(runs, names)
    measured: dict[str, Sequence[AffineAccuracy]] = {}
    labels: list[int] = []
    for name, trained in zip(names, runs, strict=True):
        splits = trained.splits()
        batches = trained.chosen(splits, arguments.split)
        own = batches.labels[:count].tolist()
        if measured and own != labels:
            raise ArgumentError(
                f"the {arguments.split} images of {printable(name)} are not those of {printable(names[0])}, so that "
                "their accuracies do not compare: they were split or chosen otherwise. Measure each by itself."
            )
        labels = own
        measured[name] = affine_accuracy(trained.classifier(splits), batches, count)
    _write(table, plot, measured)
    _print(measured, arguments)
    print(f"written to {printable(str(output))}", file=sys.stderr if arguments.json else sys.stdout)


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """The names of the networks, or those of the folders where two networks have the same."""
    names = [trained.spec.name for trained in runs]
    folders = [str(trained.folder.path) for trained in runs]
    if len(set(folders)) < len(folders):
        raise ArgumentError("a run is given twice; name each run once")
    return names if len(set(names)) == len(names) else folders


def _check_free(folder: Path, files: Sequence[Path], overwrite: bool) -> None:
    shown = printable(str(folder))
    if os.path.lexists(folder) and not folder.is_dir():
        raise ArgumentError(f"'{shown}' is no folder. Name a folder with -o.")
    taken = [file.name for file in files if os.path.lexists(file)]
    if taken and not overwrite:
        raise ArgumentError(
            f"'{shown}' holds {' and '.join(taken)} already. Name another folder with -o, or replace them with "
            "--overwrite."
        )


def _check_same_data_set(runs: Sequence[TrainedRun], names: Sequence[str]) -> None:
    """Refuses other data sets before anything is measured; where their files are does not matter."""
    datasets = [run.spec.data.dataset for run in runs if run.spec.data]
    for dataset, name in zip(datasets, names, strict=True):
        if dataset != datasets[0]:
            raise ArgumentError(
                f"{printable(name)} was trained for other images ({dataset}) than {printable(names[0])} "
                f"({datasets[0]}), so that their accuracies do not compare. Measure each by itself."
            )


def _write(table: Path, plot: Path, measured: Mapping[str, Sequence[AffineAccuracy]]) -> None:
    from encapkeras.analysis import plot_affine
    from encapkeras.files import replacing, writing

    with writing(table.parent):
        table.parent.mkdir(parents=True, exist_ok=True)
    with replacing(table) as file, file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["network", "change", "amount", "accuracy", "images"])
        for name, found in measured.items():
            writer.writerows([name, each.change, each.amount, each.accuracy, each.images] for each in found)
    with replacing(plot) as file:
        plot_affine(measured).savefig(file)


def _print(measured: Mapping[str, Sequence[AffineAccuracy]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        rows = [
            {"network": name, "change": m.change, "amount": m.amount, "accuracy": m.accuracy, "images": m.images}
            for name, found in measured.items()
            for m in found
        ]
        print(json.dumps({"split": arguments.split, "measured": rows}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    images = next(iter(measured.values()))[0].images
    print(f"accuracy on {images:,} {arguments.split} images, unchanged and on average over the changes")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network")
    for heading in ("unchanged", *MEANS.values()):
        table.add_column(heading, justify="right")
    for name, found in measured.items():
        unchanged = next(each.accuracy for each in found if each.change == "rotation" and each.amount == 0)
        means = []
        for change, same in (("rotation", 0), ("shift", 0), ("scale", 1)):
            others = [each.accuracy for each in found if each.change == change and each.amount != same]
            means.append(sum(others) / len(others))
        table.add_row(printable(name), *(f"{accuracy:.4f}" for accuracy in (unchanged, *means)))
    Console().print(table)
