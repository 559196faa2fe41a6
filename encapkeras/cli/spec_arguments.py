"""What every command that reads a spec takes: the spec, and changes to it."""

from __future__ import annotations

import argparse


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `SPEC` and `--set PATH=VALUE`, which arrive as `spec` and `overrides`."""
    parser.add_argument(
        "spec", metavar="SPEC", help="a YAML or JSON file, or the name of a bundled spec, such as quickstart"
    )
    add_overrides(parser)


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
