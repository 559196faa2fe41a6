"""`encapkeras train`: from a spec to a trained network."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras train`."""
    parser.add_argument(
        "spec", metavar="SPEC", help="a YAML or JSON file, or the name of a bundled spec, such as quickstart"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="change a value of the spec, for example --set train.epochs=3; may be repeated",
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", help="folder for everything that the run writes (runs/NAME/DATE_TIME)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the run folder already")


def run(arguments: argparse.Namespace) -> int:
    """Trains."""
    from encapkeras.graph import load_spec
    from encapkeras.training import train

    spec = load_spec(arguments.spec, overrides=arguments.overrides)
    train(spec, run_dir=arguments.run_dir, overwrite=arguments.overwrite)
    return 0
