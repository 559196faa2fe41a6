"""`encapkeras evaluate RUN ... --affine`: accuracy on rotated, shifted and scaled images, as a plot and a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.output_file import check_free_in, csv_text
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import ArgumentError, printable

if TYPE_CHECKING:
    from encapkeras.analysis import AffineAccuracy

IMAGES = 1000
KEYS = ("network", "change", "amount", "accuracy", "images")
UNCHANGED = {"rotation": 0, "shift": 0, "scale": 1}


def run(arguments: argparse.Namespace) -> None:
    """Measure each run, and write one table and one plot of all."""
    from encapkeras.analysis import affine_accuracy
    from encapkeras.analysis.affine_plot import MOST_NETWORKS
    from encapkeras.data.splits import describe_sample

    count = IMAGES if arguments.images is None else arguments.images
    if count < 1:
        raise ArgumentError(f"--images must be at least 1; received {count}")
    if len(arguments.runs) > MOST_NETWORKS:
        raise ArgumentError(f"at most {MOST_NETWORKS} runs can be compared; received {len(arguments.runs)}")
    places = (arguments.data_root, arguments.overrides, arguments.changes)
    runs = [TrainedRun.open(path, *places) for path in arguments.runs]
    for trained in runs:
        trained.check_one_class("--affine", arguments.changes)
    names = _names(runs)
    output = Path(arguments.output) if arguments.output else runs[0].folder.analysis_in("affine")
    table, plot = output / "affine.csv", output / "affine.png"
    check_free_in(output, (table, plot), arguments.overwrite)
    _check_same_data_set(runs, names)
    measured: dict[str, Sequence[AffineAccuracy]] = {}
    labels: list[int] = []
    images: list[Any] = []
    for name, trained in zip(names, runs, strict=True):
        splits = trained.splits()
        batches = trained.chosen(splits, arguments.split)
        own = batches.labels.tolist()
        parts = splits.fingerprint["parts"].items()
        files = [part for kind, part in parts if (kind == "test") == (arguments.split == "test")]
        if measured and (own, files) != (labels, images):
            raise ArgumentError(
                f"the {arguments.split} images of {printable(name)} are not those of {printable(names[0])}: they were "
                "split or chosen differently, so their accuracies cannot be compared. Measure each by itself."
            )
        labels, images = own, files
        measured[name] = affine_accuracy(trained.classifier(splits), batches, count)
    rows = [
        {"network": name, **{key: getattr(one, key) for key in KEYS[1:]}}
        for name, found in measured.items()
        for one in found
    ]
    _write(table, plot, rows, measured)
    if arguments.json:
        print(json.dumps({"split": arguments.split, "split_images": len(labels), "measured": rows}, indent=2))
    else:
        _print(measured, describe_sample(count, len(labels), arguments.split, splits.info.classes))
    print(f"written to {printable(str(output))}", file=sys.stderr if arguments.json else sys.stdout)


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """Return the names of the networks, or of the folders where two networks have the same name."""
    names = [trained.spec.name for trained in runs]
    folders = [str(trained.folder.path) for trained in runs]
    if len(set(folders)) < len(folders):
        raise ArgumentError("a run was given twice; name each run once")
    return names if len(set(names)) == len(names) else folders


def _check_same_data_set(runs: Sequence[TrainedRun], names: Sequence[str]) -> None:
    """Refuse other data sets before anything is measured; where their files are does not matter."""
    datasets = [run.spec.data.dataset for run in runs if run.spec.data]
    for dataset, name in zip(datasets, names, strict=True):
        if dataset != datasets[0]:
            raise ArgumentError(
                f"{printable(name)} was trained on other images ({dataset}) than {printable(names[0])} "
                f"({datasets[0]}), so their accuracies cannot be compared. Measure each by itself."
            )


def _write(
    table: Path, plot: Path, rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Sequence[AffineAccuracy]]
) -> None:
    from encapkeras.analysis import plot_affine
    from encapkeras.files import replacing, writing

    with writing(table.parent):
        table.parent.mkdir(parents=True, exist_ok=True)
    with replacing(table) as file:
        file.write_text(csv_text(rows, KEYS), encoding="utf-8", newline="\n")
    with replacing(plot) as file:
        plot_affine(measured).savefig(file)


def _print(measured: Mapping[str, Sequence[AffineAccuracy]], sample: str) -> None:
    columns: dict[str, list[str]] = {"network": [], "unchanged": [], "rotated": [], "shifted": [], "scaled": []}
    for name, found in measured.items():
        accuracies = [next(one.accuracy for one in found if one.change == "rotation" and one.amount == 0)]
        for change, same in UNCHANGED.items():
            changed = [one.accuracy for one in found if one.change == change and one.amount != same]
            accuracies.append(sum(changed) / len(changed))
        cells = [printable(name), *(f"{accuracy:.4f}" for accuracy in accuracies)]
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    title = f"accuracy on {sample}: unchanged, and mean over each kind of change\n"
    print_table(columns, title=title, right=list(columns)[1:])
