"""The table that `encapkeras show` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from encapkeras.cli.terminal.table import print_table
from encapkeras.text import count_text, memory_text, shape_text

if TYPE_CHECKING:
    from encapkeras.summary.cost import Cost
    from encapkeras.summary.node_table import NodeRow

# The order of rows implies most inputs, and names imply most layers.
_CAN_GO = ("inputs", "layer", "votes", "output shape")
_ON_THE_RIGHT = ("weights", "multiply-adds", "memory", "votes")


def print_nodes(title: str, rows: Sequence[tuple[NodeRow, Cost]]) -> None:
    """Print the nodes of a network with what they cost, each on one line."""
    columns = {
        "name": [row.name for row, _ in rows],
        "layer": [row.layer for row, _ in rows],
        "inputs": [_inputs(row) for row, _ in rows],
        "output shape": ["one number" if row.is_loss else shape_text(row.output_shape) for row, _ in rows],
        "weights": [f"{row.weights:,}" for row, _ in rows],
        "multiply-adds": [count_text(cost.multiply_adds) for _, cost in rows],
        "memory": [memory_text(cost.kept_bytes) for _, cost in rows],
    }
    if any(cost.votes_bytes is not None for _, cost in rows):
        columns["votes"] = ["" if cost.votes_bytes is None else memory_text(cost.votes_bytes) for _, cost in rows]
    print_table(columns, title=title, right=_ON_THE_RIGHT, can_go=_CAN_GO)


def _inputs(row: NodeRow) -> str:
    if not row.is_loss:
        return ", ".join(row.inputs)
    pairs = zip(row.roles, row.inputs, strict=True)
    return ", ".join(name if role == name else f"{role} {name}" for role, name in pairs)
