"""What `encapkeras show SPEC --diff OTHER` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from encapkeras.errors import printable
from encapkeras.text import count_text, memory_text, shape_text

if TYPE_CHECKING:
    from encapkeras.summary.difference import Change, Difference, Side

_TITLES = {
    "output_shape": "output shape",
    "fixed_weights": "non-trainable parameters",
    "multiply_adds": "multiply-adds",
    "memory_bytes": "memory",
    "votes_bytes": "votes",
}
_COLORS = {"+": "green", "-": "red", "~": "yellow"}


def print_difference(names: Sequence[str], before: Side, after: Side, found: Difference) -> None:
    """Print what changes, one line each: `+` is new, `-` is gone, `~` has changed; `names` are those of the specs."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    print(" -> ".join(names))
    if found.empty:
        print("no difference")
        return
    for line in _lines(before, after, found):
        console.print(Text(printable(line), style=_COLORS.get(line.strip()[:1], "")))


def difference_data(before: Side, after: Side, found: Difference) -> dict[str, Any]:
    """Return the same as plain data; a change is a list of the value before and the value after."""

    def lists(changes: Mapping[str, Change]) -> dict[str, list[Any]]:
        return {name: list(change) for name, change in changes.items()}

    return {
        "before": before.network.spec.name,
        "after": after.network.spec.name,
        "batch_size": [before.batch_size, after.batch_size],
        "added": list(found.added),
        "removed": list(found.removed),
        "changed": {name: lists(changes) for name, changes in found.changed.items()},
        "settings": lists(found.settings),
        "totals": lists(found.totals),
    }


def _lines(before: Side, after: Side, found: Difference) -> Iterator[str]:
    if found.added or found.removed or found.changed:
        yield "nodes"
    for name in found.removed:
        yield f"  - {_node(before, name)}"
    for name in found.added:
        yield f"  + {_node(after, name)}"
    for name, changes in found.changed.items():
        yield f"  ~ {name}"
        for what, change in changes.items():
            yield f"      {_TITLES.get(what, what)}: {_change(what, change)}"
    if found.settings:
        yield "settings"
    for path, (old, new) in found.settings.items():
        sign = "+" if old is None else "-" if new is None else "~"
        value = _value("", new if old is None else old) if sign != "~" else _change("", (old, new))
        yield f"  {sign} {printable(path)}: {value}"
    yield "total"
    for what, change in found.totals.items():
        yield f"    {_TITLES.get(what, what)}: {_change(what, change)}"


def _node(side: Side, name: str) -> str:
    row, cost = side.rows[name], side.costs[name]
    shape = "one number" if row.is_loss else shape_text(row.output_shape)
    work, memory = count_text(cost.multiply_adds), memory_text(cost.kept_bytes)
    return f"{name}: {row.layer}, {shape}, {row.weights:,} weights, {work} multiply-adds, {memory}"


def _change(what: str, change: Change) -> str:
    old, new = change
    text = f"{_value(what, old)} -> {_value(what, new)}"
    is_count = what in ("parameters", "weights", "fixed_weights", "multiply_adds", "memory_bytes", "votes_bytes")
    if is_count and old and new is not None:
        share = f"{(new - old) / old:+.1%}" if abs(new - old) < 10 * old else f"x {new / old:.3g}"
        return f"{text} ({share})" if new != old else _value(what, old)
    return text


def _value(what: str, value: Any) -> str:
    from encapkeras.summary.diagram import arguments_text

    if what in ("memory_bytes", "votes_bytes"):
        return memory_text(value)
    if what == "multiply_adds":
        return count_text(value)
    if what == "output_shape":
        return shape_text(value) if value else "one number"
    if what in ("parameters", "weights", "fixed_weights"):
        return f"{value:,}"
    return "nothing" if value is None else arguments_text({"": value}).removeprefix(": ")
