"""From a spec file to a keras.Model, one step per file.

Read `load`, `inherit`, `variables` (with `arithmetic`), `expand` (with `blocks`), `sections` (with `train_settings`),
`schema` (with `keras_layers`), `check`, `build`; `spec` takes the steps one after the other, `model` makes the Keras
model, `report` its table. The steps up to `sections` need neither Keras nor torch.

`declarations` gathers what the language consists of; `json_schema` (with `editor_types`) tells it to editors,
`reference_page` to people.
"""

from __future__ import annotations

import importlib
from typing import Any

import encapkeras.backend  # noqa: F401  # refuses another Keras backend

_PUBLIC = {
    "Spec": "spec",
    "load_spec": "spec",
    "check_spec": "spec",
    "SpecModel": "model",
    "build_model": "model",
    "load_model": "model",
    "NodeRow": "report",
    "node_table": "report",
    "parameters": "report",
    "unused_nodes": "report",
    "Examined": "spec",
    "examine_spec": "spec",
    "Cost": "cost",
    "MemoryEstimate": "cost",
    "node_costs": "cost",
    "memory_estimate": "cost",
    "Diagram": "diagram",
    "diagram_of": "diagram",
    "as_mermaid": "mermaid",
    "as_svg": "svg",
    "TrainSettings": "train_settings",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"encapkeras.graph.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'encapkeras.graph' has no attribute '{name}'")
