"""Deprecated: the old name of `encapkeras.spec`, `encapkeras.model` and `encapkeras.summary`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_MOVED = {
    "spec": ("Spec", "TrainSettings", "load_spec"),
    "model": ("Examined", "SpecModel", "build_model", "check_spec", "examine_spec", "load_model"),
    "summary": (
        *("Cost", "Diagram", "MemoryEstimate", "NodeRow", "as_mermaid", "as_svg", "diagram_of"),
        *("memory_estimate", "node_costs", "node_table", "parameters", "unused_nodes"),
    ),
}
_ROOMS = {name: f"encapkeras.{room}" for room, names in _MOVED.items() for name in names}

__all__ = list(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'encapkeras.graph' has no attribute '{name}'")
    warnings.warn(f"encapkeras.graph.{name} is now {_ROOMS[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(_ROOMS[name]), name)
