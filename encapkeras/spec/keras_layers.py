"""The layers of Keras itself, as specs name them: `keras.Conv2D`."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Annotated, Any

import keras
import pydantic

from encapkeras.errors import suggest
from encapkeras.layers.keras_objects import KERAS_OBJECTS, object_names
from encapkeras.spec.keras_names import PREFIX, REFUSED
from encapkeras.validation import Argument, shown

# Layers that mean the same for capsules (B, H, W, N, D) as for an image, or reshape them openly.
FIT_FOR_CAPSULES = frozenset(
    "Activation ActivityRegularization Add Average Concatenate Dropout Flatten GaussianDropout GaussianNoise Identity "
    "LayerNormalization LeakyReLU Maximum Minimum Multiply Permute ReLU Rescaling Reshape Subtract".split()
)


def keras_layer(name: str) -> type[keras.layers.Layer]:
    """The Keras layer that a spec calls `keras.NAME`; raises `LookupError` if there is none, or it is not for specs."""
    short = name.removeprefix(PREFIX)
    if short in REFUSED:
        raise LookupError(f"'{name}' cannot be used in a spec: {REFUSED[short]}")
    found = getattr(keras.layers, short, None)
    if not (inspect.isclass(found) and issubclass(found, keras.layers.Layer)):
        raise LookupError(f"Keras has no layer '{short}'. {suggest(name, keras_layer_names())}")
    return found


def keras_layer_names() -> list[str]:
    """The names of Keras' layers that specs may use, with the prefix."""
    return [
        PREFIX + name
        for name, found in vars(keras.layers).items()
        if inspect.isclass(found) and issubclass(found, keras.layers.Layer) and name not in REFUSED
    ]


def keras_layer_aliases() -> dict[str, str]:
    """Second names of Keras' layers with the first, such as `keras.Convolution2D` with `keras.Conv2D`."""
    names = {name: PREFIX + keras_layer(name).__name__ for name in keras_layer_names()}
    return {name: first for name, first in names.items() if name != first and first in names}


def parameters(layer: type[keras.layers.Layer]) -> dict[str, inspect.Parameter]:
    """The arguments of a Keras layer's constructor by name."""
    return {
        name: parameter
        for name, parameter in inspect.signature(layer.__init__).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def keras_arguments(layer: type[keras.layers.Layer]) -> list[Argument]:
    """The arguments of a Keras layer, which checks most of their values itself."""
    finite = Annotated[Any, pydantic.BeforeValidator(_finite)]
    return [Argument(name, finite, parameter.default) for name, parameter in parameters(layer).items()]


def plain_argument(argument: Argument) -> Argument:
    """An argument as a spec may give it: as plain data, or as a named object of Keras where it takes one."""

    def check(value: Any) -> Any:
        problem = object_problem(argument.name, value)
        if problem:
            raise ValueError(problem)
        return value

    return dataclasses.replace(argument, annotation=Annotated[argument.annotation, pydantic.BeforeValidator(check)])


def object_problem(argument: str, value: Any) -> str:
    """What is wrong with an initializer, regularizer, constraint or activation; empty if nothing is."""
    # Keras would import any module that a map names: only built-in classes and plain numbers are allowed.
    kind = object_kind(argument)
    if not kind:
        if isinstance(value, dict) and ("class_name" in value or "module" in value):
            return "must be plain data; only initializers, regularizers, constraints and activations are named objects"
        return ""
    if isinstance(value, str):
        return _unknown_object(kind, value)
    if kind == "activation":
        return f"must be the name of a Keras activation; received {shown(value)}"
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        return f"must be the name of a Keras {kind}, or {{class_name: ..., config: {{...}}}}; received {shown(value)}"
    extra = sorted(set(value) - {"class_name", "config"})
    config = value.get("config", {})
    if extra:
        return f"'{extra[0]}' is not allowed here. Allowed: class_name, config."
    if not isinstance(config, dict) or any(isinstance(part, dict | list) for part in _parts(config)):
        return f"'config' must be a map of numbers, names and lists of these; received {shown(config)}"
    return _unknown_object(kind, value["class_name"]) or _wrong_config(KERAS_OBJECTS[kind], value["class_name"], config)


def object_kind(argument: str) -> str:
    """The kind of named object that an argument takes, such as `initializer`: the last part of its name; else empty."""
    kind = argument.rpartition("_")[2]
    return kind if kind in KERAS_OBJECTS else ""


def _parts(config: dict[str, Any]) -> list[Any]:
    """The values of a map, and in place of a list its elements: a constraint may have `axis: [0, 1, 2]`."""
    return [part for value in config.values() for part in (value if isinstance(value, list) else [value])]


def _unknown_object(kind: str, name: str) -> str:
    names = object_names(kind)
    if name in names:
        return ""
    return f"no {kind} of Keras is called '{name}'. {suggest(name, [each for each in names if each.islower()])}"


def _finite(value: Any) -> Any:
    if not _is_finite(value):
        raise ValueError(f"must be a finite number; received {shown(value)}")
    return value


def _is_finite(value: Any) -> bool:
    return all(math.isfinite(number) for number in keras.tree.flatten(value) if isinstance(number, float))


def _wrong_config(module: Any, name: str, config: dict[str, Any]) -> str:
    infinite = [argument for argument, value in config.items() if not _is_finite(value)]
    if infinite:
        return f"'{infinite[0]}' of '{name}' must be a finite number; received {shown(config[infinite[0]])}"
    try:
        getattr(module, name)(**config)
    except Exception as error:  # whatever follows from a value of a type that Keras does not check
        plain = isinstance(error, TypeError | ValueError)
        why = error if plain else f"one of its values has a type that Keras does not take ({error})"
        return f"'{name}' does not take this config: {why}"
    return ""
