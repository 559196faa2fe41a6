"""The file that a command writes: what may be overwritten, and how it is put in place."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encapkeras.errors import ArgumentError, RunFolderError, printable
from encapkeras.text import listed


def add_output_arguments(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Declare `-o` and `--overwrite`, which arrive as `output` and `overwrite`."""
    parser.add_argument("-o", "--output", required=True, metavar=metavar, help="the file to write")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declare `--overwrite`, which arrives as `overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it already exists")


def file_format(output: str, endings: Mapping[str, str], given: str | None, option: str = "--format {}") -> str:
    """Return the format that the ending of a file says; `option` is how a command is given one, for messages.

    Raises:
        ArgumentError: No format has this ending, or the command was given another one.
    """
    shown, ending = printable(output), Path(output).suffix
    if ending not in endings.values():
        wanted = [endings[given]] if given else endings.values()
        raise ArgumentError(f"-o must name a {' or '.join(wanted)} file; received '{shown}'")
    form = next(name for name in endings if endings[name] == ending)
    if given not in (None, form):
        raise ArgumentError(
            f"-o must name a {endings[str(given)]} file for {option.format(given)}; received '{shown}'. Without "
            f"{option.format(given)}, that is written as {form}."
        )
    return form


def check_output(arguments: argparse.Namespace, source: str | Path, *endings: str) -> Path:
    """Return the file that `-o` names, checked before any work: not `source`, and with such an ending."""
    output = Path(arguments.output)
    shown = printable(str(output))
    if output.suffix not in endings:
        raise ArgumentError(f"-o must name a {' or '.join(endings)} file; received '{shown}'")
    if output.is_file() and os.path.exists(source) and output.samefile(source):
        raise ArgumentError(f"'{shown}' is the file to read. Name another file with -o.")
    check_free(output, arguments.overwrite, option=" with -o")
    return output


def check_free(output: Path, overwrite: bool, option: str = "") -> None:
    """Check that a file can be written; `option` is how a command names another one, for messages."""
    shown = printable(str(output))
    if output.is_dir():
        raise ArgumentError(f"'{shown}' is a folder. Name a file in it{option}.")
    if os.path.lexists(output) and not overwrite:
        raise ArgumentError(f"'{shown}' already exists. Name another file{option}, or replace it with --overwrite.")
    if not output.parent.is_dir():
        raise ArgumentError(
            f"'{shown}' cannot be written: '{printable(str(output.parent))}' is not a folder. Create it first."
        )


def check_free_in(folder: Path, files: Sequence[Path], overwrite: bool) -> None:
    """Check that files can be written into a folder, which need not exist."""
    shown = printable(str(folder))
    if os.path.lexists(folder) and not folder.is_dir():
        raise ArgumentError(f"'{shown}' is not a folder. Name a folder with -o.")
    taken = [file.name for file in files if os.path.lexists(file)]
    if taken and not overwrite:
        names = " and ".join(taken) if len(taken) < 3 else listed(taken, most=3)
        raise ArgumentError(
            f"'{shown}' has {printable(names)} already. Name another folder with -o, or replace them with --overwrite."
        )


def write_text(output: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    from encapkeras.files import replacing

    try:
        with replacing(output) as file:
            file.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")  # names of files
    except RunFolderError as error:
        cause = error.__cause__
        reason = getattr(cause, "strerror", None) or cause
        raise ArgumentError(f"'{printable(str(output))}' could not be written: {reason}") from error


def csv_text(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Return rows as CSV, below their keys."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
