"""Step 5: the layers that nodes can have, and their arguments; `sections` has all other keys of a spec."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from encapkeras.errors import suggest
from encapkeras.registry import Entry
from encapkeras.spec.keras_names import APPLICATIONS, PREFIX
from encapkeras.spec.known import Known, registered
from encapkeras.validation import Argument, Arguments

if TYPE_CHECKING:
    import keras


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
    def is_backbone(self) -> bool:
        """Whether it is a network of `keras.applications`."""
        return self.name.startswith(APPLICATIONS)

    @property
    def takes_capsules(self) -> bool:
        """Whether it may come after a layer that outputs maps of capsules."""
        from encapkeras.spec.keras_layers import FIT_FOR_CAPSULES

        return not self.is_keras or self.name.removeprefix(PREFIX) in FIT_FOR_CAPSULES


def layer_kind(name: str, known: Known | None = None) -> LayerKind | None:
    """The layer that a spec calls by this name; None if only Keras knows it.

    Raises `LookupError`, whose message suggests others, if none is.
    """
    known = known or registered()
    if name.startswith(PREFIX):
        if not known.is_source:
            return _keras_kind(name)
        known.leave_to_keras()
        return None
    if name in known.layers:
        return _declared_kind(known, name) if known.is_source else _registered_kind(known.layers[name])
    if name in known.keras_layers:
        raise LookupError(f"no layer is called '{name}'. Did you mean '{PREFIX}{name}'?")
    near = suggest(name, known.layers)
    own = "" if near.startswith("Did") else " Your own come from a plugin: --plugin FILE."
    raise LookupError(f"no layer is called '{name}'. {near} Keras layers are called keras.NAME.{own}")


@functools.cache
def _keras_kind(name: str) -> LayerKind:
    from encapkeras.spec.keras_layers import keras_arguments, keras_layer, plain_argument

    if name.startswith(APPLICATIONS):
        return _backbone_kind(name)
    layer = keras_layer(name)
    return _kind(name, layer, map(plain_argument, keras_arguments(layer)))


def _backbone_kind(name: str) -> LayerKind:
    from encapkeras.layers.backbone import Backbone, backbone_arguments

    short = name.removeprefix(APPLICATIONS)
    return _kind(name, functools.partial(Backbone, short), backbone_arguments(short))


@functools.cache
def _registered_kind(entry: Entry) -> LayerKind:
    from encapkeras.spec.keras_layers import plain_argument

    return _kind(entry.name, entry.target, map(plain_argument, entry.arguments.values()))


def _declared_kind(known: Known, name: str) -> LayerKind:
    if name not in known.kinds:  # kept with the sources that were read, and no longer
        entry = known.layers[name]
        known.kinds[name] = _kind(entry.name, entry.target, entry.arguments.values())
    kind: LayerKind = known.kinds[name]
    return kind


def _kind(name: str, target: Any, arguments: Iterable[Argument]) -> LayerKind:
    own = [argument for argument in arguments if argument.name not in ("name", "trainable", "dtype")]
    ports = ("out",) if name.startswith(PREFIX) else getattr(target, "ports", ("out",))
    return LayerKind(name, target, ports, Arguments(f"layer '{name}'", own))
