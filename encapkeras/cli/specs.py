"""`encapkeras specs`: the specs that come with encapkeras, and the text of one of them."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import ArgumentError, printable

EXAMPLES = (
    "encapkeras specs",
    "encapkeras specs quickstart",
    "encapkeras specs base/encapnet",
)
PAGE = "spec_files.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="print this spec, such as quickstart, or this base, such as base/encapnet",
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or a spec."""
    if arguments.name is not None:
        print(_text(arguments.name), end="")
        return 0
    rows = _rows()
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 0


def _text(name: str) -> str:
    """Return a bundled file unchanged except for the line that gives editors the path of its schema."""
    from encapkeras.spec.bundled import bundled_specs
    from encapkeras.spec.formatting import MODELINE
    from encapkeras.spec.spec_files import installed_schema, suggest_spec

    folder = bundled_specs()
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.yaml")}
    if name.removesuffix(".yaml") not in files:
        raise ArgumentError(f"no bundled spec is called '{printable(name)}'. {suggest_spec(name, files)}")
    text = files[name.removesuffix(".yaml")].read_text("utf-8")
    return MODELINE.sub(lambda line: line[0].replace(line[1], installed_schema()), text, count=1)


def _rows() -> list[dict[str, str | None]]:
    from encapkeras.spec.bundled import bundled_names

    return [
        {"name": name, "dataset": _dataset(file), "summary": _summary(file), "file": str(file)}
        for name, file in bundled_names().items()
    ]


def _dataset(file: Path) -> str | None:
    """Return the data set of a spec or of what it extends; None if there is none."""
    from encapkeras.spec.inherit import Inheritance
    from encapkeras.spec.parse import load_file
    from encapkeras.spec.report import Report

    report = Report()
    spec = Inheritance(file.parent, report).resolve(load_file(file, file.name, report), file)
    data = spec.entries().get("data")
    dataset = data.entries().get("dataset") if data else None
    return str(dataset.value) if dataset else None


def _summary(file: Path) -> str:
    from encapkeras.spec.formatting import MODELINE

    text = MODELINE.sub("", file.read_text("utf-8")).lstrip()
    remark = re.match(r"(?:#.*\n)*", text)
    words = " ".join(line.lstrip("# ") for line in remark[0].splitlines()) if remark else ""
    return re.split(r"(?<=\.) ", words, maxsplit=1)[0].removesuffix(".")


def _print(rows: list[dict[str, str | None]]) -> None:
    headings = {"name": "name", "data set": "dataset", "network": "summary"}
    print_table({heading: [row[key] or "" for row in rows] for heading, key in headings.items()}, wraps="network")
    print("encapkeras specs NAME prints one, or a base such as base/encapnet; encapkeras train NAME trains it")
