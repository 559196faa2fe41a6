"""The Keras layer of one node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from encapkeras.errors import ArgumentError
from encapkeras.spec.keras_layers import parameters
from encapkeras.spec.layer_kinds import LayerKind


def make_layer(kind: LayerKind, name: str, arguments: Mapping[str, Any], policy: Any) -> keras.layers.Layer:
    """The layer; raises whatever its constructor raises."""
    values = {key: _named_object(value) for key, value in arguments.items()}
    if kind.is_keras and "data_format" in parameters(kind.target):  # ~/.keras/keras.json must not change a network
        values = {"data_format": "channels_last", **values}
    # By name, where it has one: Keras makes a configuration of plain arguments only.
    dtype = policy.name if type(policy) is keras.DTypePolicy else policy
    layer = kind.target(name=name, dtype=dtype, **values)
    if not kind.is_keras and not kind.target.__module__.startswith("encapkeras."):
        _check_own_layer(layer, name, values)
    return layer


def _named_object(value: Any) -> Any:
    """An argument; a named object as Keras wants it, which is a map that always has a `config`."""
    return {"config": {}, **value} if isinstance(value, dict) and "class_name" in value else value


def _check_own_layer(layer: keras.layers.Layer, name: str, arguments: Iterable[str]) -> None:
    """Check what a layer of the user's must do, and would fail to do much later, when a model is saved or loaded."""
    who = f"class {type(layer).__name__}"
    if getattr(layer, "name", None) != name:
        raise ArgumentError(f"__init__ of {who} must hand **kwargs on: super().__init__(**kwargs)")
    base = "derive it from encapkeras.layers.CapsuleLayer, whose get_config is right, or correct it"
    try:
        config = layer.get_config()
        lost = [argument for argument in arguments if argument not in config]
        if not lost:
            type(layer).from_config(config)
    except Exception as error:  # a configuration is the layer's own code
        reason = str(error).rpartition("Exception encountered: ")[2]  # behind what Keras says around it
        raise ArgumentError(f"get_config of {who} does not make it again: {reason}; {base}") from error
    if lost:
        raise ArgumentError(f"get_config of {who} lacks {', '.join(map(repr, lost))}, which loading needs; {base}")
