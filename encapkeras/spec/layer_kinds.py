"""Step 5: what may stand behind `layer`, and the arguments of each layer; `sections` has all other keys of a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from encapkeras.errors import suggest
from encapkeras.layers import LAYERS
from encapkeras.registry import Entry
from encapkeras.spec.keras_layers import (
    FIT_FOR_CAPSULES,
    PREFIX,
    argument_problems,
    keras_layer,
    keras_layer_names,
    object_problem,
    parameters,
)
from encapkeras.validation import ValueProblem


@dataclass(frozen=True)
class LayerKind:
    """A layer that nodes can have.

    Args:
        name: What stands behind `layer`.
        target: Its class.
        ports: Its outputs; a reference without a port means the one called `out`.
        entry: Its registration; None for a layer of Keras.
    """

    name: str
    target: type[keras.layers.Layer]
    ports: Sequence[str]
    entry: Entry | None = field(default=None, repr=False)

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments."""
        own = self.entry.arguments if self.entry else parameters(self.target)
        return [name for name in own if name not in ("name", "trainable", "dtype")]

    def problems(self, values: Mapping[str, Any]) -> list[ValueProblem]:
        """What is wrong with known arguments, and which are missing."""
        objects = {name: object_problem(name, value) for name, value in values.items()}
        found = [ValueProblem((name,), text) for name, text in objects.items() if text]
        sound = {name: value for name, value in values.items() if not objects[name]}
        others = self.entry.problems(sound) if self.entry else argument_problems(self.name, values)
        return [*found, *(p for p in others if p.kind != "missing" or p.path[0] not in values)]

    @property
    def takes_capsules(self) -> bool:
        """Whether it may stand behind a layer that makes maps of capsules."""
        return self.entry is not None or self.name.removeprefix(PREFIX) in FIT_FOR_CAPSULES


def layer_kind(name: str) -> LayerKind:
    """The layer that a spec calls by this name.

    Raises:
        LookupError: There is none; the message says what there is.

    Example:
        >>> layer_kind("capsule_stage").ports
        ('input', 'main', 'half', 'out')
    """
    if name.startswith(PREFIX):
        return LayerKind(name, keras_layer(name), ("out",))
    if name in LAYERS:
        entry = LAYERS[name]
        return LayerKind(name, entry.target, getattr(entry.target, "ports", ("out",)), entry)  # type: ignore[arg-type]
    known = keras_layer_names()
    if PREFIX + name in known:
        raise LookupError(f"no layer is called '{name}'. Did you mean '{PREFIX}{name}'?")
    near = suggest(name, LAYERS)
    own = "" if near.startswith("Did") else " Your own come from a plugin: --plugin FILE."
    raise LookupError(f"no layer is called '{name}'. {near} Keras' own are called keras.NAME.{own}")
