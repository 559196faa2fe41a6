"""`encapkeras schema`: writes the JSON Schema by which editors complete, explain and check specs, or the reference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.errors import ArgumentError

FILE = "spec.schema.json"
STANDARD_OUTPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras schema`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"the file to write, or - to print (specs/{FILE} where there is a folder specs here, else {FILE})",
    )
    parser.add_argument(
        "--format",
        choices=("json", "markdown"),
        default="json",
        help="json: the schema; markdown: the same as a page to read (%(default)s)",
    )
    add_plugins(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the schema, and says where.

    Returns:
        0.

    Raises:
        ArgumentError: The file exists and is not an earlier one of ours, or cannot be written.
    """
    if arguments.format == "markdown" and arguments.output is None:
        raise ArgumentError("--format markdown needs the file to write: -o FILE, or -o - to print")
    if arguments.output == STANDARD_OUTPUT:
        sys.stdout.write(_text(arguments.format))
        return 0
    path = Path(arguments.output or (Path("specs") / FILE if Path("specs").is_dir() else FILE))
    _check(path, _is_schema if arguments.format == "json" else _is_page)
    try:
        path.write_text(_text(arguments.format), encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"'{path}' cannot be written: {error.strerror}") from None
    print(f"wrote {path}")
    if arguments.format == "json":
        print(f"In the first line of a spec beside it: # yaml-language-server: $schema=./{path.name}")
    return 0


def _text(form: str) -> str:
    if form == "json":
        from encapkeras.editor.json_schema import schema_text

        return schema_text()
    from encapkeras.editor.reference_page import reference_page

    return reference_page()


def _check(path: Path, is_ours: Callable[[str], bool]) -> None:
    """Refuses to write over what we did not write."""
    if path.is_dir():
        raise ArgumentError(f"'{path}' is a folder. Name a file in it with -o.")
    if not path.parent.is_dir():
        raise ArgumentError(f"'{path}' cannot be written: '{path.parent}' is no folder. Make it first.")
    if not path.exists():
        return
    try:
        ours = is_ours(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise ArgumentError(f"'{path}' exists and was not written by this command. Name another file with -o.")


def _is_schema(text: str) -> bool:
    from encapkeras.editor.json_schema import GENERATED_BY

    return f'"$comment": "{GENERATED_BY}' in text[:1000]


def _is_page(text: str) -> bool:
    from encapkeras.editor.reference_page import GENERATED_BY

    return GENERATED_BY in text[:1000]
