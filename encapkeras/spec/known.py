"""What nodes and losses can be: as they are registered, or, before Keras is imported, as their source declares them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from encapkeras.declared import Declared
from encapkeras.registry import Entry
from encapkeras.spec.keras_names import PREFIX, names_in_source


@dataclass
class Known:
    """The registered layers and losses, or those that the source declares, of which none can be made.

    Args:
        layers: Those that are registered.
        losses: Those that are registered.
        keras_layers: The names of Keras' layers that specs may use, without the prefix.
        is_source: Whether all this is read from source; then only Keras can judge some values.
        undecided: Whether there was something that only Keras can judge.
        kinds: Of the declared layers that were named, what nodes need of them.
    """

    layers: Mapping[str, Entry]
    losses: Mapping[str, Entry]
    keras_layers: Collection[str]
    is_source: bool = False
    undecided: bool = False
    kinds: dict[str, Any] = field(default_factory=dict)

    def leave_to_keras(self) -> None:
        """Note that there was something that only Keras can judge."""
        self.undecided = True


def registered() -> Known:
    """What is registered now, plugins included."""
    from encapkeras.layers import LAYERS
    from encapkeras.losses import LOSSES
    from encapkeras.spec.keras_layers import keras_layer_names

    return Known(LAYERS, LOSSES, [name.removeprefix(PREFIX) for name in keras_layer_names()])


def declared() -> Known:
    """What comes with encapkeras, without importing Keras."""
    known = Known({}, {}, names_in_source(), is_source=True)
    known.layers = Declared("layers", "register_layer", known.leave_to_keras)
    known.losses = Declared("losses", "register_loss", known.leave_to_keras)
    return known
