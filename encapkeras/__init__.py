"""encapkeras: capsule networks for Keras 3 on PyTorch.

Public names load when they are first used, so that `import encapkeras` is quick and `encapkeras.functional` never
imports Keras.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "build_model": "encapkeras.model",
    "load_model": "encapkeras.model",
    "load": "encapkeras.packing.load",
    "check_spec": "encapkeras.model",
    "SpecModel": "encapkeras.model",
    "load_spec": "encapkeras.spec",
    "compare": "encapkeras.comparison",
    "register_layer": "encapkeras.layers",
    "load_plugin": "encapkeras.plugins",
    "analyse_routing": "encapkeras.analysis",
    "explain": "encapkeras.analysis",
    "SpecError": "encapkeras.errors",
    "EncapkerasError": "encapkeras.errors",
}
_PACKAGES = (
    "functional",
    "layers",
    "losses",
    "spec",
    "model",
    "summary",
    "data",
    "analysis",
    "distribution",
    "training",
    "comparison",
    "callbacks",
    "interop",
    "packing",
    "errors",
    "graph",  # deprecated
)

__all__ = ["__version__", *_PUBLIC, *_PACKAGES]

# Keras reads this when it is first imported; a backend that the user chose is not overruled (layers then say so).
if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"encapkeras.{name}")
    raise AttributeError(f"module 'encapkeras' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
