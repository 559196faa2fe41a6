"""`encapkeras schema`: writes the JSON Schema by which editors complete, explain and check specs, or the reference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from encapkeras.cli.arguments.output_file import check_free, file_format, write_text
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.errors import ArgumentError

FILE = "spec.schema.json"
ENDINGS = {"json": ".json", "markdown": ".md"}
STANDARD_OUTPUT = "-"
EXAMPLES = (
    "encapkeras schema",
    "encapkeras schema -o spec.md",
    "encapkeras schema --plugin my_layers.py -o -",
)
PAGE = "editor.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"the file to write, or - to print (specs/{FILE} where there is a folder specs here, else {FILE})",
    )
    parser.add_argument(
        "--format",
        choices=("json", "markdown"),
        help="json: the schema; markdown: the same as a page for people (markdown for -o FILE.md, else json)",
    )
    add_plugins(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the schema or the page, and print where it is."""
    if arguments.format == "markdown" and arguments.output is None:
        raise ArgumentError("--format markdown needs the file to write: -o FILE, or -o - to print")
    if arguments.output == STANDARD_OUTPUT:
        sys.stdout.write(_text(arguments.format or "json"))
        return 0
    path = Path(arguments.output or (Path("specs") / FILE if Path("specs").is_dir() else FILE))
    form = arguments.format or "json"
    if path.suffix in ENDINGS.values():
        form = file_format(str(path), ENDINGS, arguments.format)
    _check(path, _is_schema if form == "json" else _is_page)
    write_text(path, _text(form))
    print(f"wrote {path}")
    if form == "json":
        print(f"First line for specs in the same folder: # yaml-language-server: $schema=./{path.name}")
    return 0


def _text(form: str) -> str:
    if form == "json":
        from encapkeras.editor.json_schema import schema_text

        return schema_text()
    from encapkeras.editor.reference_page import reference_page

    return reference_page()


def _check(path: Path, is_ours: Callable[[str], bool]) -> None:
    """Refuse to overwrite a file that this command did not write."""
    check_free(path, overwrite=True, option=" with -o")
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
