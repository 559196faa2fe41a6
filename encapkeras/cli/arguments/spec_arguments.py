"""What every command that reads a spec takes: the spec, changes to it, and plugins."""

from __future__ import annotations

import argparse


def add_spec_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Declares `SPEC`, `--set PATH=VALUE` and `--plugin FILE`: `spec`, `overrides` and `plugins`.

    Args:
        parser: That of a command.
        optional: Whether the spec may be left out, and is None then.
    """
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?" if optional else None,
        help="a YAML or JSON file, or the name of a bundled spec, such as quickstart",
    )
    add_overrides(parser)
    add_plugins(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Declares `--plugin FILE`, which arrives as `plugins`; they are loaded before the command runs."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        dest="plugins",
        help="a Python file that registers layers, losses or data sets of your own; may be given several times",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declares `--set PATH=VALUE`, which arrives as `overrides`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="change a value of the spec, such as train.epochs=3; may be given several times",
    )
