"""The tables of all commands, in the width that there is."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence

from encapkeras.errors import printable

GAP = "  "
NARROWEST = 20  # cells of a column whose text is wrapped


def print_table(
    columns: Mapping[str, Sequence[str]],
    *,
    title: str = "",
    right: Collection[str] = (),
    can_go: Sequence[str] = (),
    wraps: str = "",
) -> None:
    """Print columns below their headings; `can_go` may be left out of a narrow table, `wraps` (the last) wrapped."""
    width = terminal_width()
    gone: list[str] = []
    columns = {heading: list(map(printable, cells)) for heading, cells in columns.items()}
    shown = dict(columns)
    while width is not None and can_go[len(gone) :] and _full_width(shown) > width:
        gone.append(can_go[len(gone)])
        shown.pop(gone[-1], None)
    print("\n".join([*([title] if title else []), *_lines(shown, right, width if wraps else None)]))
    gone = [heading for heading in columns if heading in gone]
    if gone:
        print(f"hidden to fit a width of {width}: {', '.join(gone)} (COLUMNS=200 or --json shows all)")


def terminal_width() -> int | None:
    """Return the number of columns of the terminal; None where the output is not limited."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


def _lines(columns: Mapping[str, Sequence[str]], right: Collection[str], width: int | None) -> Iterator[str]:
    """Yield the headings, a rule as wide as the table, and the rows; with a width, the last column is wrapped."""
    widths = _widths(columns)
    *fixed, last = columns
    before = sum(widths[heading] + len(GAP) for heading in fixed)
    for number, cells in enumerate([tuple(columns), *zip(*columns.values(), strict=True)]):
        texts = [cells[-1]]
        if width is not None and before + widths[last] > width:
            texts = textwrap.wrap(cells[-1], max(width - before, NARROWEST)) or [""]
        rows = [[*cells[:-1], texts[0]], *([*[""] * len(fixed), text] for text in texts[1:])]
        for row in rows:
            aligned = zip(columns, row, strict=True)
            yield GAP.join(_aligned(cell, widths[heading], heading in right) for heading, cell in aligned).rstrip()
        if number == 0:
            full = _full_width(columns)
            yield "-" * (full if width is None else min(full, width))


def _aligned(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _cells(cell))
    return space + cell if right else cell + space


def _widths(columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {heading: max(map(_cells, [heading, *cells])) for heading, cells in columns.items()}


def _full_width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(_widths(columns).values()) + len(GAP) * (len(columns) - 1)


def _cells(text: str) -> int:
    """Return the cells of a terminal that a text takes: two for each Chinese character, for example."""
    from rich.cells import cell_len

    return cell_len(text)
