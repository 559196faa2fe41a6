"""Which layers of Keras specs may name: what can be said without importing Keras."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

PREFIX = "keras."
APPLICATIONS = "keras.applications."
"""The prefix of the networks of Keras that can be nodes."""
IMAGENET = "imagenet"
"""The weights of these that Keras downloads."""

_CODE = "it holds code, and a spec is plain data; write a layer and register it with encapkeras.register_layer"
_INNER = "it wraps other layers, which are not plain data; write a layer and register it with encapkeras.register_layer"
_FITTED = "its state comes from data, not from training; prepare the images before they reach the model"
REFUSED = {
    **dict.fromkeys(("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "Layer"), _CODE),
    **dict.fromkeys(("Wrapper", "TimeDistributed", "Bidirectional", "SpectralNormalization", "RNN"), _INNER),
    **dict.fromkeys(("StackedRNNCells", "LSTMCell", "GRUCell", "SimpleRNNCell", "Pipeline"), _INNER),
    **dict.fromkeys(("TextVectorization", "StringLookup", "IntegerLookup", "Discretization"), _FITTED),
    **dict.fromkeys(("Hashing", "HashedCrossing"), "it needs TensorFlow; prepare the data before it reaches the model"),
    **dict.fromkeys(("InputLayer", "Input"), "inputs are declared in 'model.inputs'"),
}

_NO_LAYERS = {*REFUSED, "InputSpec"}


@functools.cache
def names_in_source() -> frozenset[str]:
    """The names in `keras.layers` that begin as those of classes do, read from the text of that module."""
    return frozenset(name for name in _imported("layers") if name[:1].isupper() and name not in _NO_LAYERS)


@functools.cache
def applications_in_source() -> frozenset[str]:
    """The names of the networks in `keras.applications`, read from the text of that module."""
    return frozenset(name for name in _imported("applications") if name[:1].isupper())


def _imported(module: str) -> list[str]:
    found = importlib.util.find_spec("keras")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'keras'", name="keras")
    text = (Path(found.submodule_search_locations[0]) / module / "__init__.py").read_text("utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    return [alias.asname or alias.name for node in imports for alias in node.names]
