"""`encapkeras evaluate RUN --per-class` and `--hardest N`: errors class by class, and a list of the hardest classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.output_file import check_free, csv_text, write_text
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import ArgumentError, printable

if TYPE_CHECKING:
    from encapkeras.analysis import ClassErrors
    from encapkeras.analysis.scores import ClassScores
    from encapkeras.data import Batches, DataSplits


def run(arguments: argparse.Namespace) -> None:
    """Count the errors; print them, or write the names of the classes that have the most."""
    output = Path(arguments.output) if arguments.output else None
    if output:
        check_free(output, arguments.overwrite, option=" with -o")
    from encapkeras.analysis import class_errors, hardest

    trained = TrainedRun.open(arguments.runs[0], arguments.data_root, arguments.overrides, arguments.changes)
    if arguments.hardest is not None or arguments.top is not None:
        trained.check_one_class("--per-class" if arguments.hardest is None else "--hardest", arguments.changes)
    splits = trained.splits()
    batches = trained.chosen(splits, arguments.split)
    by_scores = arguments.top is None or splits.info.classes_per_image != 1
    if arguments.hardest is None and by_scores and splits.info.task == "classes":
        _show_scores(trained, splits, batches, output, arguments)
        return
    found = class_errors(trained.classifier(splits), batches, top=arguments.top or 1)
    ranked = hardest(found, arguments.hardest)
    if arguments.hardest is None:
        rows = [_errors(one) for one in found]
        if output:
            write_text(output, csv_text(rows, ["label", "class", "images", "errors", "error"]))
        _print(rows, arguments)
    elif output:
        write_text(output, "".join(f"{each.class_name}\n" for each in ranked))
        first, last = (f"{100 * (each.error or 0):.1f} %" for each in (ranked[0], ranked[-1]))
        span = f"from {first} to {last} {_what(arguments)}"
        print(f"{len(ranked)} of {len(found)} classes, {span}, written to {printable(str(output))}")


def _show_scores(
    trained: TrainedRun, splits: DataSplits, batches: Batches, output: Path | None, arguments: argparse.Namespace
) -> None:
    """Print and write the scores of each class, and its errors where images have one class."""
    from encapkeras.training.measure import loaded, measure_scores

    one_class = splits.info.classes_per_image == 1
    if arguments.top is not None and not one_class:
        raise ArgumentError("--top is for images with one class each; these have several labels")
    classes = measure_scores(loaded(trained.checkpoint, splits.info), batches).measured().classes
    rows = [_row(label, each, one_class) for label, each in enumerate(classes)]
    if output:
        write_text(output, csv_text(rows, list(rows[0])))
    _print(rows, arguments)


def _row(label: int, each: ClassScores, one_class: bool) -> dict[str, Any]:
    """Return the scores of a class; its errors are those of its own images, so that they say nothing of a label."""
    scores = asdict(each)
    name, images = scores.pop("class_name"), scores.pop("images")
    errors = round(images * (1 - (each.recall or 0)))
    of_class = {"errors": errors, "error": errors / images if images else None} if one_class else {}
    return {"label": label, "class": name, "images": images, **of_class, **scores}


def _errors(one: ClassErrors) -> dict[str, Any]:
    return {"label": one.label, "class": one.class_name, "images": one.images, "errors": one.errors, "error": one.error}


def _print(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the classes that have images, the worst first."""
    if arguments.json:
        print(json.dumps({"split": arguments.split, "top": arguments.top or 1, "classes": rows}, indent=2))
        return
    worst_first = sorted((row for row in rows if row["images"]), key=_quality)
    one_class = "error" in rows[0]
    shown = {key: words for key, words in _COLUMNS.items() if key in rows[0] and not (one_class and key == "recall")}
    columns = {words: [_cell(key, row[key]) for row in worst_first] for key, words in shown.items()}
    title = _what(arguments) if one_class else f"labels of the {arguments.split} images"
    print_table(columns, title=f"{title}\n", right=list(columns)[1:])
    without = [printable(row["class"]) for row in rows if not row["images"]]
    if without:
        print(f"without images: {', '.join(without)}")


def _what(arguments: argparse.Namespace) -> str:
    return f"{f'top-{arguments.top} ' if arguments.top else ''}errors on the {arguments.split} images"


_COLUMNS = {
    "class": "class",
    "images": "images",
    "errors": "errors",
    "error": "error",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
}


def _quality(row: dict[str, Any]) -> tuple[float, int]:
    return (-row["error"] if "error" in row else row["f1"] or 0.0), row["label"]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "class":
        return printable(value)
    if key == "error":
        return f"{100 * value:.1f} %"
    return f"{value:,}" if key in ("images", "errors") else f"{value:.4f}"
