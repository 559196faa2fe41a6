"""The registry of layers, and the base class that gives every layer its checks and its configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import keras

from encapkeras.errors import ShapeError
from encapkeras.registry import Registry

LayerClass = TypeVar("LayerClass", bound=type[keras.layers.Layer])

LAYERS = Registry("layer")

Shape = tuple[int | None, ...]


def register_layer(name: str) -> Callable[[LayerClass], LayerClass]:
    """Makes a layer class known to specs and to Keras' loading.

    Args:
        name: The name that specs use.

    Raises:
        TypeError: A parameter lacks its annotation or its line in the docstring's `Args:`, or the name is taken.
    """

    def decorate(cls: LayerClass) -> LayerClass:
        registered = LAYERS.register(name)(cls)
        return keras.saving.register_keras_serializable(package="encapkeras")(registered)  # type: ignore[no-any-return]

    return decorate


class CapsuleLayer(keras.layers.Layer):  # type: ignore[misc]
    """Base class of our layers.

    The arguments of a registered layer are checked when it is made and are its configuration. A layer with `ports`
    returns a map of all of them when called with `return_ports=True`.

    Args:
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.
    """

    ports: ClassVar[tuple[str, ...]] = ("out",)
    _arguments: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), **copy.deepcopy(self._arguments)}


def capsule_shape(layer: keras.layers.Layer, shape: Sequence[int | None]) -> tuple[int, int, int, int]:
    """The last four numbers of a `(B, H, W, N, D)` shape, checked.

    Raises:
        ShapeError: The shape is not that of a map of capsules of known size.
    """
    if len(shape) != 5 or any(size is None for size in shape[1:]):
        raise ShapeError(
            f"{layer.name} takes capsules (batch, height, width, types, dim) of known size; received shape "
            f"{tuple(shape)}. image_to_capsules makes capsules of an image."
        )
    height, width, types, dim = (int(size) for size in shape[1:] if size is not None)
    return height, width, types, dim
