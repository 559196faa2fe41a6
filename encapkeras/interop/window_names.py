"""The names and layouts that self-routing's code has for the weights of layers that route in windows.

There, the children of a window are one axis, by offset, then type; the parents of vectors are one axis, by type, then
component.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import keras

from encapkeras.interop.connections import LackingError, Place
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.layers import SelfRoutingCapsules, WindowDynamicCapsules, WindowEmCapsules, WindowLayer

_NAMES: dict[type[WindowLayer], dict[str, str]] = {
    SelfRoutingCapsules: {"kernel": "W1", "routing_kernel": "W2", "routing_bias": "b2"},
    WindowDynamicCapsules: {"kernel": "W"},
    WindowEmCapsules: {"kernel": "W", "beta_v": "beta_u", "beta_a": "beta_a"},
}


def window_tensors(place: Place) -> list[OriginalTensor]:
    """Return the weights of a layer that routes in windows; raise `LackingError` if the original has no such layer."""
    layer = place.layer
    names = next((found for kind, found in _NAMES.items() if isinstance(layer, kind)), None)
    if names is None:
        raise LackingError("has no counterpart")
    refuse_unpublished(layer)
    return [
        OriginalTensor.of(f"{place.name}.{names[weight.name]}", weight, shape=_shape(layer.pose, weight))
        for weight in layer.weights
    ]


def refuse_unpublished(layer: WindowLayer, matrices: Collection[str] = ("offset",)) -> None:
    """Raise `LackingError` if a layer shares its matrices as no original does, or has fixed coefficients."""
    if layer.matrices not in matrices:
        raise LackingError(f"has other matrices than those of each offset (matrices: {layer.matrices})")
    if layer.routing is not None:
        raise LackingError(f"has fixed coefficients (routing: {layer.routing})")
    if getattr(layer, "use_output_bias", False):
        raise LackingError("has biases of its outputs (use_output_bias)")


def uncalled_modules(places: Iterable[Place]) -> tuple[str, ...]:
    """Return how names begin in checkpoints of what the original never calls: batch norms behind dynamic routing."""
    hidden = [place.name for place in places if isinstance(place.layer, WindowDynamicCapsules)]
    return tuple(f"{name.replace('conv_layers', 'norm_layers')}." for name in hidden if "conv_layers" in name)


def _shape(pose: str, weight: keras.Variable) -> tuple[int, ...]:
    """Return the original's shape of a weight."""
    name, sizes = weight.name, tuple(weight.shape)
    if name.startswith("beta"):
        return (1, 1, *sizes, 1) if name == "beta_v" else (1, 1, *sizes)
    height, width, types, outputs, *matrix = sizes
    children = height * width * types
    if name == "routing_bias":
        return (1, 1, children, outputs)
    if name == "routing_kernel":
        return (children, outputs, *matrix)
    return (children, outputs, *matrix) if pose == "matrix" else (children, outputs * matrix[0], matrix[1])
