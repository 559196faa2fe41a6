"""The file that a command writes: `-o FILE`, and `--overwrite` for one that exists."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from encapkeras.errors import ArgumentError, CheckpointError


def add_output_arguments(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Declares `-o` and `--overwrite`, which arrive as `output` and `overwrite`."""
    parser.add_argument("-o", "--output", required=True, metavar=metavar, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it exists already")


def check_output(arguments: argparse.Namespace, source: str, *endings: str) -> Path:
    """The file to write, checked before any work is done for it.

    Args:
        arguments: What the command was given.
        source: The file that the command reads.
        endings: The endings that its name may have.

    Raises:
        ArgumentError: The name has another ending.
        CheckpointError: It exists and may not be replaced, is the file to read, or there is no folder for it.
    """
    output = Path(arguments.output)
    if output.suffix not in endings:
        raise ArgumentError(f"-o must name a {' or '.join(endings)} file; received '{output}'")
    if output.is_dir():
        raise CheckpointError(f"'{output}' is a folder. Name a file in it with -o.")
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise CheckpointError(f"'{output}' is the file to read. Name another file with -o.")
    if os.path.lexists(output) and not arguments.overwrite:
        raise CheckpointError(f"'{output}' exists already. Name another file with -o, or replace it with --overwrite.")
    if not output.parent.is_dir():
        raise CheckpointError(f"'{output}' cannot be written: '{output.parent}' is no folder. Make it first.")
    return output
