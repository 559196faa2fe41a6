"""`encapkeras check SPEC`: finds all mistakes of a spec, wrong shapes included, without making weights."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument("spec", help="a YAML or JSON file, or the name of a bundled spec, such as quickstart")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="change a value of the spec, such as vars.types=16; may be given several times",
    )


def run(arguments: argparse.Namespace) -> int:
    """Checks the spec and says how large its network is.

    Returns:
        0; mistakes are raised as `SpecError`.
    """
    import keras

    from encapkeras.graph import build_model, node_table

    with keras.device("meta"):
        rows = node_table(build_model(arguments.spec, arguments.overrides))
    weights = sum(row.weights for row in rows)
    print(f"{arguments.spec}: ok, {len(rows)} nodes, {weights:,} parameters")
    return 0
