"""The table that `encapkeras show` prints, in the width that there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encapkeras.summary.cost import Cost
    from encapkeras.summary.node_table import NodeRow

# What goes first where a terminal is narrow: the order of rows tells most inputs, and names tell most layers.
_CAN_GO = (
    (),
    ("inputs",),
    ("inputs", "layer"),
    ("inputs", "layer", "votes"),
    ("inputs", "layer", "votes", "output shape"),
)
_ON_THE_RIGHT = ("weights", "multiply-adds", "memory", "votes")


def print_table(title: str, rows: Sequence[tuple[NodeRow, Cost]]) -> None:
    """Prints the nodes of a network, each on one line.

    A terminal, or `COLUMNS`, that is too narrow for all columns gets fewer of them, and a line that says which are left
    out. What is written to a file or another program is not cut.

    Args:
        title: What stands above it.
        rows: The nodes, with what they cost.
    """
    columns = _columns(rows)
    width = _width()
    for left_out in _CAN_GO:
        lines = list(_lines({heading: cells for heading, cells in columns.items() if heading not in left_out}))
        if width is None or len(lines[1]) <= width:
            break
    print("\n".join([title, *lines]))
    gone = [heading for heading in columns if heading in left_out]
    if gone:
        print(f"left out, for the width of {width}: {', '.join(gone)} (COLUMNS=200 or --json shows all)")


def _columns(rows: Sequence[tuple[NodeRow, Cost]]) -> dict[str, list[str]]:
    from encapkeras.text import count_text, memory_text, shape_text

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
    return columns


def _inputs(row: NodeRow) -> str:
    if not row.is_loss:
        return ", ".join(row.inputs)
    pairs = zip(row.roles, row.inputs, strict=True)
    return ", ".join(name if role == name else f"{role} {name}" for role, name in pairs)


def _lines(columns: dict[str, list[str]]) -> Iterator[str]:
    """The headings, a rule as wide as the table, and a line for each row."""
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    rows = zip(*columns.values(), strict=True)
    for number, cells in enumerate([tuple(columns), *rows]):
        aligned = [
            cell.rjust(widths[heading]) if heading in _ON_THE_RIGHT else cell.ljust(widths[heading])
            for heading, cell in zip(columns, cells, strict=True)
        ]
        yield "  ".join(aligned).rstrip()
        if number == 0:
            yield "-" * len("  ".join(aligned))


def _width() -> int | None:
    """The columns there are; None where there is no end to them."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
