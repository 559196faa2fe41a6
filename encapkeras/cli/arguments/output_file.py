"""The file that a command writes: what may be overwritten, and how it is put in place."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from encapkeras.errors import ArgumentError, printable


def add_output_arguments(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Declares `-o` and `--overwrite`, which arrive as `output` and `overwrite`."""
    parser.add_argument("-o", "--output", required=True, metavar=metavar, help="the file to write")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declares `--overwrite`, which arrives as `overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it exists already")


def check_output(arguments: argparse.Namespace, source: str | Path, *endings: str) -> Path:
    """The file to write that `-o` names, checked before any work is done for it.

    Args:
        arguments: What the command was given.
        source: The file that the command reads.
        endings: The endings that its name may have.

    Raises:
        ArgumentError: The name has another ending, it exists and may not be replaced, is the file to read, or there is
            no folder for it.
    """
    output = Path(arguments.output)
    shown = printable(str(output))
    if output.suffix not in endings:
        raise ArgumentError(f"-o must name a {' or '.join(endings)} file; received '{shown}'")
    if output.is_file() and os.path.exists(source) and output.samefile(source):
        raise ArgumentError(f"'{shown}' is the file to read. Name another file with -o.")
    check_free(output, arguments.overwrite, option=" with -o")
    return output


def check_free(output: Path, overwrite: bool, option: str = "") -> None:
    """Checks that a file can be written.

    Args:
        output: The file.
        overwrite: Whether it may be replaced.
        option: How the command is told another file, for messages.

    Raises:
        ArgumentError: It exists and may not be replaced, or there is no folder for it.
    """
    shown = printable(str(output))
    if output.is_dir():
        raise ArgumentError(f"'{shown}' is a folder. Name a file in it{option}.")
    if os.path.lexists(output) and not overwrite:
        raise ArgumentError(f"'{shown}' exists already. Name another file{option}, or replace it with --overwrite.")
    if not output.parent.is_dir():
        raise ArgumentError(
            f"'{shown}' cannot be written: '{printable(str(output.parent))}' is no folder. Make it first."
        )


def write_text(output: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Raises:
        ArgumentError: It cannot be written, for example because the disk is full.
    """
    partial = output.with_name(f".{output.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, output)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ArgumentError(f"'{printable(str(output))}' could not be written: {error.strerror or error}") from error
