"""Step 5: the layers that nodes can have, and their arguments; `sections` has all other keys of a spec."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import keras

from encapkeras.errors import suggest
from encapkeras.layers import LAYERS
from encapkeras.registry import Entry
from encapkeras.spec.keras_layers import (
    FIT_FOR_CAPSULES,
    PREFIX,
    keras_arguments,
    keras_layer,
    keras_layer_names,
    plain_argument,
)
from encapkeras.validation import Argument, Arguments


@dataclass(frozen=True)
class LayerKind:
    """A layer that nodes can have; a reference without a port means the one called `out`."""

    name: str
    target: type[keras.layers.Layer]
    ports: Sequence[str]
    arguments: Arguments = field(repr=False, compare=False)

    @property
    def is_keras(self) -> bool:
        """Whether it is a layer of Keras itself."""
        return self.name.startswith(PREFIX)

    @property
    def takes_capsules(self) -> bool:
        """Whether it may come after a layer that outputs maps of capsules."""
        return not self.is_keras or self.name.removeprefix(PREFIX) in FIT_FOR_CAPSULES


def layer_kind(name: str) -> LayerKind:
    """The layer that a spec calls by this name; raises `LookupError`, whose message suggests others, if none is."""
    if name.startswith(PREFIX):
        return _keras_kind(name)
    if name in LAYERS:
        return _registered_kind(LAYERS[name])
    if PREFIX + name in keras_layer_names():
        raise LookupError(f"no layer is called '{name}'. Did you mean '{PREFIX}{name}'?")
    near = suggest(name, LAYERS)
    own = "" if near.startswith("Did") else " Your own come from a plugin: --plugin FILE."
    raise LookupError(f"no layer is called '{name}'. {near} Keras layers are called keras.NAME.{own}")


@functools.cache
def _keras_kind(name: str) -> LayerKind:
    layer = keras_layer(name)
    return LayerKind(name, layer, ("out",), _arguments(name, keras_arguments(layer)))


@functools.cache
def _registered_kind(entry: Entry) -> LayerKind:
    ports = getattr(entry.target, "ports", ("out",))
    return LayerKind(entry.name, entry.target, ports, _arguments(entry.name, entry.arguments.values()))  # type: ignore[arg-type]


def _arguments(name: str, arguments: Collection[Argument]) -> Arguments:
    own = [plain_argument(a) for a in arguments if a.name not in ("name", "trainable", "dtype")]
    return Arguments(f"layer '{name}'", own)
