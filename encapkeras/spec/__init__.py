"""The spec language: from the text of a file to a `Spec`. It knows the registered layers and losses, and builds none.

Read in the order of the steps: `parse` (text to a `tree` of located values; a `report` collects what is wrong with
them), `inherit` (`extends` and `--set`), `variables` (with `arithmetic`), `expand` (with `blocks`), `sections` (with
`train_settings` and `settings`), `layer_kinds` (with `known` and `keras_layers`), `nodes`, `losses`, `sweep`,
`warnings` (with `one_class`); `load` takes the steps one after the other. Importing them brings neither Keras nor
torch: `first_look` takes the steps without these, and finds what is wrong with the text.
"""

from __future__ import annotations

import importlib
from typing import Any

import encapkeras.backend  # noqa: F401  # refuses another Keras backend

_PUBLIC = {"Source": "load", "Spec": "spec", "TrainSettings": "train_settings", "load_spec": "load"}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"encapkeras.spec.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'encapkeras.spec' has no attribute '{name}'")
