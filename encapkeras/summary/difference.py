"""What changes from one network to another: nodes, their arguments, sizes and costs, and the settings of the specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encapkeras.model.examine import Examined
from encapkeras.summary.cost import Cost, memory_estimate, node_costs
from encapkeras.summary.node_table import NodeRow, node_table

Change = tuple[Any, Any]
"""A value before and after; None where there is none."""

_NO_SETTINGS = ("spec", "name", "source")
_REMARKS = ("doc", "expect")  # change nothing


@dataclass(frozen=True)
class Side:
    """One of the two networks, with its nodes and side losses by name and what they cost at a batch size."""

    network: Examined
    rows: Mapping[str, NodeRow]
    costs: Mapping[str, Cost]
    batch_size: int


@dataclass(frozen=True)
class Difference:
    """What changes from one network to another."""

    added: Sequence[str]  # names of the nodes and side losses that only the second has
    removed: Sequence[str]  # names of those that only the first has
    changed: Mapping[str, Mapping[str, Change]]  # of those that both have, by the name of an argument or a measure
    settings: Mapping[str, Change]  # in the rest of the resolved specs, by path, such as `train.epochs`
    totals: Mapping[str, Change]

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.added or self.removed or self.changed or self.settings)


def side_of(network: Examined, batch_size: int, device: Any = None) -> Side:
    """Return a network with what its nodes cost; arguments as of `node_costs`."""
    rows = {row.name: row for row in node_table(network)}
    return Side(network, rows, node_costs(network, batch_size, device), batch_size)


def difference(before: Side, after: Side) -> Difference:
    """Return what changes from one network to another; nodes are the same if they have the same name."""
    changed = {
        name: changes
        for name, row in before.rows.items()
        if name in after.rows and (changes := dict(_changes(name, before, after)))
    }
    return Difference(
        added=[name for name in after.rows if name not in before.rows],
        removed=[name for name in before.rows if name not in after.rows],
        changed=changed,
        settings=dict(_different(_settings(before.network), _settings(after.network))),
        totals={name: (value, _totals(after)[name]) for name, value in _totals(before).items()},
    )


def _changes(name: str, before: Side, after: Side) -> Iterator[tuple[str, Change]]:
    """Yield what is different at a node that both have."""
    yield from _different(_written(name, before.network), _written(name, after.network))
    old, new = (measures(side.rows[name], side.costs[name]) for side in (before, after))
    yield from _different(old, new)


def _written(name: str, network: Examined) -> dict[str, Any]:
    """Return what the spec says of a node; nothing for a side loss, which is among the settings."""
    node = network.spec.resolved["model"]["nodes"].get(name, {})
    return {key: value for key, value in node.items() if key not in _REMARKS}


def measures(row: NodeRow, cost: Cost) -> dict[str, Any]:
    """Return the size and the cost of a node."""
    return {
        "output_shape": list(row.output_shape),
        "weights": row.weights,
        "fixed_weights": row.fixed_weights,
        "multiply_adds": cost.multiply_adds,
        "memory_bytes": cost.kept_bytes,
        "votes_bytes": cost.votes_bytes,
    }


def _settings(network: Examined) -> dict[str, Any]:
    """Return the spec without its nodes."""
    spec = network.spec.resolved
    model = {key: value for key, value in spec["model"].items() if key != "nodes"}
    return {key: value for key, value in {**spec, "model": model}.items() if key not in _NO_SETTINGS}


def _totals(side: Side) -> dict[str, Any]:
    work = [cost.multiply_adds for cost in side.costs.values() if cost.multiply_adds is not None]
    memory = memory_estimate(side.network, side.batch_size, costs=side.costs)
    return {
        "parameters": sum(row.weights for row in side.rows.values()),
        "multiply_adds": sum(work),
        "memory_bytes": memory.total,
    }


def _different(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Change]]:
    """Yield the values that differ, by their paths; a map in place of another value, or of an empty map, as a whole."""
    maps = [each for each in (before, after) if each is not None]
    if maps and all(isinstance(each, Mapping) and each for each in maps):
        for key in dict.fromkeys(key for each in maps for key in each):
            old, new = (None if each is None else each.get(key) for each in (before, after))
            yield from _different(old, new, f"{path}.{key}" if path else str(key))
    elif before != after:
        yield path, (before, after)
