"""The registry of losses, and the base class that gives every loss its configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from encapkeras.registry import Registry

LossClass = TypeVar("LossClass", bound=type[keras.losses.Loss] | type[keras.layers.Layer])

LOSSES = Registry("loss")


def register_loss(name: str) -> Callable[[LossClass], LossClass]:
    """Makes a loss class known to specs and to Keras' loading: one on an output, or a `SideLoss`.

    Args:
        name: The name that specs use.

    Raises:
        TypeError: A parameter lacks its annotation or its line in the docstring's `Args:`, or the name is taken.
    """

    def decorate(cls: LossClass) -> LossClass:
        registered = LOSSES.register(name, skip=frozenset({"name", "reduction", "dtype"}))(cls)
        return keras.saving.register_keras_serializable(package="encapkeras")(registered)  # type: ignore[no-any-return]

    return decorate


class CapsuleLoss(keras.losses.Loss):  # type: ignore[misc]
    """Base class of our losses: the arguments of a registered loss are checked when it is made and are its config.

    Args:
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.
    """

    _arguments: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this loss again."""
        return {**super().get_config(), **copy.deepcopy(self._arguments)}
