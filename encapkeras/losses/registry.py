"""The registry of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import keras

from encapkeras.registry import Registry

LossClass = TypeVar("LossClass", bound=type[keras.losses.Loss])

LOSSES = Registry("loss")


def register_loss(name: str) -> Callable[[LossClass], LossClass]:
    """Makes a loss class known to specs and to Keras' loading.

    Args:
        name: The name that specs use.

    Raises:
        TypeError: A parameter lacks its annotation or its line in the docstring's `Args:`, or the name is taken.
    """

    def decorate(cls: LossClass) -> LossClass:
        registered = LOSSES.register(name, skip=frozenset({"name", "reduction", "dtype"}))(cls)
        return keras.saving.register_keras_serializable(package="encapkeras")(registered)  # type: ignore[no-any-return]

    return decorate
