"""Keras' initializers, regularizers and constraints as arguments: a name, plain data or an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import keras
import pydantic

from encapkeras.errors import suggest
from encapkeras.validation import shown

KERAS_OBJECTS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
    "activation": keras.activations,
}


def object_names(kind: str) -> list[str]:
    """The names of Keras' own initializers, regularizers, constraints or activations."""
    others = {"get", "serialize", "deserialize", "register", kind.capitalize()}
    names = [name for name in dir(KERAS_OBJECTS[kind]) if name not in others and not name.startswith("_")]
    return sorted(names, key=lambda name: (name[0].isupper(), name))  # classes, which mean the same, last


def _as_config(kind: str) -> Callable[[Any], Any]:
    """Return what makes plain data of a Keras object in any form, or raises ValueError if it is not one."""

    def convert(value: Any) -> Any:
        if value is None and kind != "initializer":
            return None
        if callable(value):
            return _serialized(kind, value)
        name = value.get("class_name") if isinstance(value, dict) else value
        if not isinstance(name, str):
            raise ValueError(
                f"must be the name of a Keras {kind} or a map {{class_name: ..., config: {{...}}}}; received "
                f"{shown(value)}"
            )
        if isinstance(value, dict) and value.get("registered_name"):
            return _loadable(kind, value)
        names = object_names(kind)
        if name not in names:
            raise ValueError(f"no Keras {kind} is called '{name}'. {suggest(name, [n for n in names if n.islower()])}")
        try:
            getattr(KERAS_OBJECTS[kind], name)(**(value.get("config") or {} if isinstance(value, dict) else {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{kind} '{name}' does not take this config: {error}") from None
        return value

    return convert


def _serialized(kind: str, value: Any) -> Any:
    made = value() if isinstance(value, type) else value
    if getattr(made, "__name__", "") == "<lambda>":
        raise ValueError(f"a lambda cannot be saved: make it a function, and {_register(kind)}")
    return _loadable(kind, KERAS_OBJECTS[kind].serialize(made))


def _loadable(kind: str, config: Any) -> Any:
    """Return the configuration of an object, which may be of the user's own class."""
    try:
        KERAS_OBJECTS[kind].get(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be loaded again: {_register(kind)}; {str(error).partition(chr(10))[0]}") from None
    return config


def _register(kind: str) -> str:
    return f"register your own {kind} with keras.saving.register_keras_serializable"


InitializerConfig = Annotated[str | dict[str, Any], pydantic.BeforeValidator(_as_config("initializer"))]
"""The name of a Keras initializer (`glorot_normal`), or `{class_name: random_normal, config: {stddev: 1.0}}`."""

RegularizerConfig = Annotated[str | dict[str, Any] | None, pydantic.BeforeValidator(_as_config("regularizer"))]
"""The name of a Keras regularizer (`l2`), or `{class_name: l2, config: {l2: 0.001}}`; None for none."""

ConstraintConfig = Annotated[str | dict[str, Any] | None, pydantic.BeforeValidator(_as_config("constraint"))]
"""The name of a Keras constraint (`non_neg`), or `{class_name: max_norm, config: {axis: [0, 1, 2]}}`; None for none."""
