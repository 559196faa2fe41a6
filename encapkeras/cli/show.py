"""`encapkeras show SPEC`: prints the nodes of a network with their shapes and weights, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encapkeras.cli.spec_arguments import add_spec_arguments

if TYPE_CHECKING:
    from encapkeras.graph import NodeRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_spec_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints the nodes; makes no weights.

    Returns:
        0; mistakes are raised as `SpecError`.
    """
    import keras

    from encapkeras.graph import build_model, node_table, unused_nodes

    with keras.device("meta"):
        model = build_model(arguments.spec, arguments.overrides)
    rows, unused = node_table(model), unused_nodes(model)
    if arguments.json:
        print(json.dumps(_as_data(model.name, rows, unused), indent=2))
    else:
        _print_table(model.name, rows, unused)
    return 0


def _as_data(name: str, rows: Sequence[NodeRow], unused: Sequence[str]) -> dict[str, Any]:
    nodes = [
        {
            "name": row.name,
            "layer": row.layer,
            "inputs": list(row.inputs),
            "output_shape": list(row.output_shape),
            "weights": row.weights,
            "fixed_weights": row.fixed_weights,
        }
        for row in rows
    ]
    parameters, fixed = sum(row.weights for row in rows), sum(row.fixed_weights for row in rows)
    return {"name": name, "nodes": nodes, "parameters": parameters, "fixed_parameters": fixed, "unused": list(unused)}


def _print_table(name: str, rows: Sequence[NodeRow], unused: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name)
    for heading in ("name", "layer", "inputs", "output shape"):
        table.add_column(heading, overflow="fold")
    table.add_column("weights", justify="right")
    for row in rows:
        shape = " x ".join("?" if size is None else str(size) for size in row.output_shape)
        table.add_row(row.name, row.layer, ", ".join(row.inputs), shape, f"{row.weights:,}")
    console = Console()
    console.print(table, markup=False)
    fixed = sum(row.fixed_weights for row in rows)
    console.print(f"parameters: {sum(row.weights for row in rows):,}", highlight=False)
    console.print(f"fixed (moving statistics, frozen nodes): {fixed:,}", highlight=False)
    if unused:
        console.print(f"unused: {', '.join(unused)} (reach no output)", highlight=False)
