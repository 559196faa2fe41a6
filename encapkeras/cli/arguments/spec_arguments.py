"""The arguments of every command that reads a spec: the spec, changes to it, and plugins."""

from __future__ import annotations

import argparse

SPECS = (".yaml", ".yml", ".json")  # how their files end
SETTING = "PATH=VALUE"


def add_spec_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Declare `SPEC`, `--set PATH=VALUE` and `--plugin FILE`, which arrive as `spec`, `overrides` and `plugins`."""
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?" if optional else None,
        help="a YAML or JSON file, or the name of a bundled spec, such as quickstart",
    )
    add_overrides(parser)
    add_plugins(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Declare `--plugin FILE`, which arrives as `plugins`; they are loaded before the command runs."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        dest="plugins",
        help="a Python file that registers your own layers, losses or data sets; may be given several times",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare `--set PATH=VALUE`, which arrives as `overrides`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar=SETTING,
        dest="overrides",
        help="change a value of the spec, such as train.epochs=3; may be given several times",
    )
