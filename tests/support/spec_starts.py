"""The bundled specs as plain data, and what they are made of: nodes, references, values at their paths."""

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from encapkeras.layers import LAYERS
from encapkeras.spec.bundled import bundled_specs
from encapkeras.spec.parse import load_file
from encapkeras.spec.report import Report


def merge(base: Any, over: Any) -> Any:
    """As `extends` merges: maps deeply, all else is replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    return {
        key: merge(base[key], over[key]) if key in base and key in over else copy.deepcopy(over.get(key, base.get(key)))
        for key in {**base, **over}
    }


@functools.cache
def written(name: str) -> dict[str, Any]:
    """A bundled spec, or a base, as its author wrote it."""
    path = bundled_specs() / f"{name}.yaml"
    return load_file(path, str(path), Report()).plain()


@functools.cache
def whole(name: str) -> dict[str, Any]:
    """The same with all that it extends."""
    own = dict(written(name))
    bases = own.pop("extends", [])
    result: Any = {}
    for base in [bases] if isinstance(bases, str) else bases:
        folder = name.rpartition("/")[0]
        beside = f"{folder}/{base}" if folder else base
        known = beside if (bundled_specs() / beside).is_file() else base
        result = merge(result, whole(known.removesuffix(".yaml")))
    return merge(result, own)


STARTS = sorted(path.stem for path in bundled_specs().glob("*.yaml"))


@dataclass
class Mutation:
    """A spec that was changed.

    Args:
        start: The bundled spec that it comes from.
        spec: It, as plain data.
        overrides: What is given with `--set`.
        kinds: The kinds of the changes, in their order.
        as_json: Whether it is written as JSON.
    """

    start: str
    spec: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    as_json: bool = False


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(spec: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        spec = spec[key]
    return spec


def as_map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def node_maps(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """`model.nodes`, and the nodes of each block."""
    blocks = [as_map(block).get("nodes") for block in as_map(spec.get("blocks")).values()]
    return [as_map(nodes) for nodes in (as_map(spec.get("model")).get("nodes"), *blocks) if as_map(nodes)]


def all_nodes(spec: dict[str, Any]) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """All nodes, with their names and the maps that they are in."""
    return [(nodes, name, node) for nodes in node_maps(spec) for name, node in nodes.items() if as_map(node)]


def references(spec: dict[str, Any], nodes: dict[str, Any]) -> list[str]:
    """What can be named beside the nodes of a map: rows as they are called after expansion, and some ports."""
    names = ["image", "input", "$previous"]
    for name, node in nodes.items():
        rows = as_map(node).get("repeat")
        rows = rows if isinstance(rows, list) else [{}]
        called = [name.replace("$i", str(as_map(row).get("i", ""))) for row in rows]
        layer = str(as_map(node).get("layer"))
        ports = getattr(LAYERS[layer].target, "ports", ("out",)) if layer in LAYERS else ("out",)
        inner = as_map(as_map(as_map(spec.get("blocks")).get(layer.removeprefix("block."))).get("nodes"))
        names += called
        names += [f"{one}/{port}" for one in called for port in ports]
        names += [f"{one}.{child}" for one in called for child in inner]
    return names
