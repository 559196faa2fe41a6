"""The layers of Keras itself, as specs name them: `keras.Conv2D`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import keras

from encapkeras.errors import suggest
from encapkeras.validation import ValueProblem, shown

PREFIX = "keras."

_CODE = "it holds code, and a spec is plain data; write a layer and register it with encapkeras.register_layer"
_INNER = "it wraps other layers, which are no plain data; write a layer and register it with encapkeras.register_layer"
_FITTED = "its state comes from data, not from training; prepare the images before they reach the model"
_REFUSED = {
    **dict.fromkeys(("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "Layer"), _CODE),
    **dict.fromkeys(("Wrapper", "TimeDistributed", "Bidirectional", "SpectralNormalization", "RNN"), _INNER),
    **dict.fromkeys(("StackedRNNCells", "LSTMCell", "GRUCell", "SimpleRNNCell", "Pipeline"), _INNER),
    **dict.fromkeys(("TextVectorization", "StringLookup", "IntegerLookup", "Discretization"), _FITTED),
    **dict.fromkeys(("Hashing", "HashedCrossing"), "it needs TensorFlow; prepare the data before it reaches the model"),
    **dict.fromkeys(("InputLayer", "Input"), "inputs are declared in 'model.inputs'"),
}

# Layers that mean the same for capsules (B, H, W, N, D) as for an image, or reshape them openly.
FIT_FOR_CAPSULES = frozenset(
    "Activation ActivityRegularization Add Average Concatenate Dropout Flatten GaussianDropout GaussianNoise Identity "
    "LeakyReLU Maximum Minimum Multiply Permute ReLU Rescaling Reshape Subtract".split()
)

_OBJECTS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
    "activation": keras.activations,
}


def keras_layer(name: str) -> type[keras.layers.Layer]:
    """The Keras layer that a spec calls `keras.NAME`.

    Raises:
        LookupError: There is none, or it is not for specs; the message says which.
    """
    short = name.removeprefix(PREFIX)
    if short in _REFUSED:
        raise LookupError(f"'{name}' cannot stand in a spec: {_REFUSED[short]}")
    found = getattr(keras.layers, short, None)
    if not (inspect.isclass(found) and issubclass(found, keras.layers.Layer)):
        raise LookupError(f"Keras has no layer '{short}'. {suggest(name, keras_layer_names())}")
    return found


def keras_layer_names() -> list[str]:
    """All that may stand behind `layer` from Keras, with the prefix."""
    return [
        PREFIX + name
        for name, found in vars(keras.layers).items()
        if inspect.isclass(found) and issubclass(found, keras.layers.Layer) and name not in _REFUSED
    ]


def keras_layer_aliases() -> dict[str, str]:
    """Second names of layers of Keras, with the first.

    Example:
        >>> keras_layer_aliases()["keras.Convolution2D"]
        'keras.Conv2D'
    """
    names = {name: PREFIX + keras_layer(name).__name__ for name in keras_layer_names()}
    return {name: first for name, first in names.items() if name != first and first in names}


def parameters(layer: type[keras.layers.Layer]) -> dict[str, inspect.Parameter]:
    """The arguments of a Keras layer's constructor by name."""
    return {
        name: parameter
        for name, parameter in inspect.signature(layer.__init__).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def with_image_format(layer: type[keras.layers.Layer], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with `data_format` set if the layer has one: `~/.keras/keras.json` must not change a network.

    Example:
        >>> with_image_format(keras.layers.Conv2D, {"filters": 3})
        {'data_format': 'channels_last', 'filters': 3}
    """
    if "data_format" in parameters(layer):
        return {"data_format": "channels_last", **arguments}
    return dict(arguments)


def argument_problems(name: str, arguments: Mapping[str, Any]) -> list[ValueProblem]:
    """What is missing or not finite in a map of arguments for the layer `keras.NAME`; Keras checks the rest itself."""
    infinite = [
        ValueProblem((argument,), f"must be a finite number; received {shown(value)}")
        for argument, value in arguments.items()
        if not _is_finite(value)
    ]
    return infinite + [
        ValueProblem((argument,), f"layer '{name}' needs '{argument}'", "missing")
        for argument, parameter in parameters(keras_layer(name)).items()
        if parameter.default is parameter.empty and argument not in arguments
    ]


def object_problem(argument: str, value: Any) -> str:
    """What is wrong with an initialiser, regularizer, constraint or activation; empty if nothing is.

    Keras would import any module that a map names, so that a map may only hold a built-in class and plain numbers.

    Args:
        argument: Its name, whose last part tells the kind: `kernel_initializer`.
        value: A name, or `{class_name: ..., config: {...}}`.

    Example:
        >>> object_problem("activation", "rellu")
        "no activation of Keras is called 'rellu'. Did you mean 'relu'?"
        >>> object_problem("kernel_initializer", {"class_name": "RandomNormal", "config": {"stddev": 1.0}})
        ''
    """
    kind = object_kind(argument)
    if not kind:
        if isinstance(value, dict) and ("class_name" in value or "module" in value):
            return "must be plain data; only initialisers, regularizers, constraints and activations are named objects"
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
    if not isinstance(config, dict) or any(isinstance(entry, dict | list) for entry in config.values()):
        return f"'config' must be a map of numbers and names; received {shown(config)}"
    return _unknown_object(kind, value["class_name"]) or _wrong_config(_OBJECTS[kind], value["class_name"], config)


def object_kind(argument: str) -> str:
    """The kind of named object that an argument takes, told by the last part of its name; empty if it takes none.

    Example:
        >>> object_kind("kernel_initializer"), object_kind("filters")
        ('initializer', '')
    """
    kind = argument.rpartition("_")[2]
    return kind if kind in _OBJECTS else ""


def object_names(kind: str) -> list[str]:
    """The names of Keras' own initialisers, regularizers, constraints or activations.

    Example:
        >>> "relu" in object_names("activation")
        True
    """
    others = {"get", "serialize", "deserialize", "register", kind.capitalize()}
    names = [name for name in dir(_OBJECTS[kind]) if name not in others and not name.startswith("_")]
    return sorted(names, key=lambda name: (name[0].isupper(), name))  # classes, which mean the same, last


def _unknown_object(kind: str, name: str) -> str:
    names = object_names(kind)
    return "" if name in names else f"no {kind} of Keras is called '{name}'. {suggest(name, names)}"


def _is_finite(value: Any) -> bool:
    return all(math.isfinite(number) for number in keras.tree.flatten(value) if isinstance(number, float))


def _wrong_config(module: Any, name: str, config: dict[str, Any]) -> str:
    infinite = [argument for argument, value in config.items() if not _is_finite(value)]
    if infinite:
        return f"'{infinite[0]}' of '{name}' must be a finite number; received {shown(config[infinite[0]])}"
    try:
        getattr(module, name)(**config)
    except (TypeError, ValueError) as error:
        return f"'{name}' does not take this config: {error}"
    return ""


def plain_object(value: Any) -> Any:
    """A named object as Keras wants it: a map always with its `config`."""
    return {"config": {}, **value} if isinstance(value, dict) and "class_name" in value else value
