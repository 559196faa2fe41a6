"""`encapkeras evaluate RUN --per-class` and `--hardest N`: errors class by class, and a list of the hardest classes."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.cli.arguments.output_file import check_free, write_text
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.errors import printable

if TYPE_CHECKING:
    from encapkeras.analysis import ClassErrors


def run(arguments: argparse.Namespace) -> None:
    """Counts the errors; prints them, or writes the names of the classes that have most."""
    output = Path(arguments.output) if arguments.output else None
    if output:
        check_free(output, arguments.overwrite, option=" with -o")
    from encapkeras.analysis import class_errors, hardest

    trained = TrainedRun.open(arguments.runs[0])
    splits = trained.splits()
    batches = trained.chosen(splits, arguments.split)
    found = class_errors(trained.classifier(splits), batches, top=arguments.top or 1)
    ranked = hardest(found, arguments.hardest)
    if arguments.hardest is None:
        if output:
            write_text(output, _as_csv(found))
        _print(ranked, found, arguments)
    elif output:
        write_text(output, "".join(f"{each.class_name}\n" for each in ranked))
        span = f"from {_percent(ranked[0])} to {_percent(ranked[-1])} {_what(arguments)}"
        print(f"{len(ranked)} of {len(found)} classes, {span}, written to {printable(str(output))}")


def _print(ranked: Sequence[ClassErrors], found: Sequence[ClassErrors], arguments: argparse.Namespace) -> None:
    if arguments.json:
        rows = [
            {
                "label": each.label,
                "class": each.class_name,
                "images": each.images,
                "errors": each.errors,
                "error": each.error,
            }
            for each in found
        ]
        print(json.dumps({"split": arguments.split, "top": arguments.top or 1, "classes": rows}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    print(_what(arguments))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for heading in ("images", "errors", "error"):
        table.add_column(heading, justify="right")
    for each in ranked:
        table.add_row(printable(each.class_name), f"{each.images:,}", f"{each.errors:,}", _percent(each))
    Console().print(table)
    without = [printable(each.class_name) for each in found if not each.images]
    if without:
        print(f"without images: {', '.join(without)}")


def _what(arguments: argparse.Namespace) -> str:
    return f"{f'top-{arguments.top} ' if arguments.top else ''}errors on the {arguments.split} images"


def _percent(each: ClassErrors) -> str:
    return "-" if each.error is None else f"{100 * each.error:.1f} %"


def _as_csv(found: Sequence[ClassErrors]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "class", "images", "errors", "error"])
    writer.writerows([each.label, each.class_name, each.images, each.errors, each.error] for each in found)
    return text.getvalue()
