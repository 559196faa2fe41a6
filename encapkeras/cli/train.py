"""`encapkeras train`: from a spec to a trained network."""

from __future__ import annotations

import argparse

from encapkeras.cli.problems import print_warnings
from encapkeras.cli.spec_arguments import add_spec_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras train`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--run-dir", metavar="DIR", help="folder for everything that the run writes (runs/NAME/DATE_TIME)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the run folder already")


def run(arguments: argparse.Namespace) -> int:
    """Trains."""
    from encapkeras.graph import load_spec
    from encapkeras.training import train

    spec = load_spec(arguments.spec, overrides=arguments.overrides)
    print_warnings(spec.warnings)
    train(spec, run_dir=arguments.run_dir, overwrite=arguments.overwrite)
    return 0
