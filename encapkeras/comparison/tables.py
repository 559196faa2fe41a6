"""The tables of a comparison: in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from encapkeras.errors import printable
from encapkeras.text import in_markdown

WIDEST = 10_000  # of a table, which is as wide as its names: a line that runs over loses nothing
_METRICS = ("test\naccuracy", "test\nerror %", "validation\naccuracy", "parameters", "images/s", "seconds", "peak\nMiB")


def terminal_tables(
    networks: Sequence[Mapping[str, str]], pairs: Sequence[Mapping[str, str]] = (), *, compared_by: str = "accuracy"
) -> Group:
    """Return the tables of a comparison from their cells by heading."""
    return Group(_networks(networks), *([_pairs(pairs, compared_by)] if pairs else []))


def _networks(rows: Sequence[Mapping[str, str]]) -> Table:
    table = _table()
    names = list(rows[0])[: list(rows[0]).index("runs") + 1]  # between spec and runs is what sweeps set
    for heading in names:
        table.add_column(Text(printable(heading)), justify="left" if heading in ("spec", "runs") else "right")
    others = list(rows[0])[len(names) + len(_METRICS) + 2 :: 2]  # each has its lowest and highest value after it
    for heading in (*_METRICS, *(other.replace(" ", "\n", 1) for other in others)):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [Text(printable(cell)) for cell in row.values()]
        before, figures = cells[: len(names)], cells[len(names) :]
        test, test_range, error, validation, validation_range, *rest = figures
        rest, spreads = rest[:4], map(_below, rest[4::2], rest[5::2])
        table.add_row(*before, _below(test, test_range), error, _below(validation, validation_range), *rest, *spreads)
    return table


def _below(mean: Text, lowest_and_highest: Text) -> Text:
    return Text("\n").join([mean, lowest_and_highest])


def _pairs(rows: Sequence[Mapping[str, str]], compared_by: str) -> Table:
    """Make a block of rows for each network that others are compared with, so that a name is alone in its line."""
    table = _table()
    table.add_column(f"test {compared_by}\nin points")
    for heading in ("\ndifference", "\ninterval", "\nverdict", "\nseeds"):
        table.add_column(heading, justify="right")
    for reference, pairs in itertools.groupby(rows, key=lambda row: row["compared with"]):
        table.add_row(Text(printable(f"vs {reference}")))
        for pair in pairs:
            name, _, *cells = pair.values()
            table.add_row(Text(printable(f"  {name}")), *cells)
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a table of Markdown, below their keys."""
    headings, *lines = [" | ".join(map(in_markdown, cells)) for cells in (rows[0], *(row.values() for row in rows))]
    return "\n".join([f"| {headings} |", "|" + "---|" * len(rows[0]), *(f"| {line} |" for line in lines)]) + "\n"
