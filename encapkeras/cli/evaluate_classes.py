"""`encapkeras evaluate RUN --per-class` and `--hardest N`: errors class by class, and a list of the hardest classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.output_file import check_free, csv_text, write_text
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import printable

if TYPE_CHECKING:
    from encapkeras.analysis import ClassErrors


def run(arguments: argparse.Namespace) -> None:
    """Count the errors; print them, or write the names of the classes that have the most."""
    output = Path(arguments.output) if arguments.output else None
    if output:
        check_free(output, arguments.overwrite, option=" with -o")
    from encapkeras.analysis import class_errors, hardest

    trained = TrainedRun.open(arguments.runs[0], arguments.data_root, arguments.overrides, arguments.changes)
    trained.check_one_class("--per-class" if arguments.hardest is None else "--hardest", arguments.changes)
    splits = trained.splits()
    batches = trained.chosen(splits, arguments.split)
    found = class_errors(trained.classifier(splits), batches, top=arguments.top or 1)
    ranked = hardest(found, arguments.hardest)
    if arguments.hardest is None:
        if output:
            write_text(output, csv_text(_rows(found), ["label", "class", "images", "errors", "error"]))
        _print(ranked, found, arguments)
    elif output:
        write_text(output, "".join(f"{each.class_name}\n" for each in ranked))
        span = f"from {_percent(ranked[0])} to {_percent(ranked[-1])} {_what(arguments)}"
        print(f"{len(ranked)} of {len(found)} classes, {span}, written to {printable(str(output))}")


def _rows(found: Sequence[ClassErrors]) -> list[dict[str, Any]]:
    return [
        {"label": one.label, "class": one.class_name, "images": one.images, "errors": one.errors, "error": one.error}
        for one in found
    ]


def _print(ranked: Sequence[ClassErrors], found: Sequence[ClassErrors], arguments: argparse.Namespace) -> None:
    if arguments.json:
        data = {"split": arguments.split, "top": arguments.top or 1, "classes": _rows(found)}
        print(json.dumps(data, indent=2))
        return
    numbers = {
        "images": [f"{each.images:,}" for each in ranked],
        "errors": [f"{each.errors:,}" for each in ranked],
        "error": [_percent(each) for each in ranked],
    }
    columns = {"class": [printable(each.class_name) for each in ranked], **numbers}
    print_table(columns, title=f"{_what(arguments)}\n", right=numbers)
    without = [printable(each.class_name) for each in found if not each.images]
    if without:
        print(f"without images: {', '.join(without)}")


def _what(arguments: argparse.Namespace) -> str:
    return f"{f'top-{arguments.top} ' if arguments.top else ''}errors on the {arguments.split} images"


def _percent(each: ClassErrors) -> str:
    return "-" if each.error is None else f"{100 * each.error:.1f} %"
