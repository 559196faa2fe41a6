"""`encapkeras check SPEC`: finds all mistakes of a spec, wrong shapes included, without making weights."""

from __future__ import annotations

import argparse

from encapkeras.cli.spec_arguments import add_spec_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_spec_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Checks the spec and says how large its network is.

    Returns:
        0; mistakes are raised as `SpecError`.
    """
    import keras

    from encapkeras.graph import build_model, node_table, unused_nodes

    with keras.device("meta"):
        model = build_model(arguments.spec, arguments.overrides)
    rows, unused = node_table(model), unused_nodes(model)
    weights = sum(row.weights for row in rows)
    print(f"{arguments.spec}: ok, {len(model.nodes())} nodes, {weights:,} parameters")
    if unused:
        print(f"unused: {', '.join(unused)} (reach no output)")
    return 0
