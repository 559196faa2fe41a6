"""The names and layouts that the code of inverted dot-product attention has for the weights of its layers.

There, the children of a window that is the map are one axis, by type, then position.
"""

from __future__ import annotations

from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.interop.window_names import refuse_unpublished
from encapkeras.layers import InvertedAttentionCapsules, InvertedAttentionStack

_NORM = {"scale": "weight", "offset": "bias"}


def stack_tensors(stack: InvertedAttentionStack, name: str) -> list[OriginalTensor]:
    """Return the weights of all layers of a stack, which the original numbers."""
    return [
        tensor for number, layer in enumerate(stack.stacked) for tensor in attention_tensors(layer, f"{name}.{number}")
    ]


def attention_tensors(layer: InvertedAttentionCapsules, name: str) -> list[OriginalTensor]:
    """Return the weights of one layer."""
    refuse_unpublished(layer)
    return [
        _matrices(layer, name)
        if weight.name == "kernel"
        else OriginalTensor.of(f"{name}.nonlinear_act.{_NORM[weight.name]}", weight)
        for weight in layer.weights
    ]


def _matrices(layer: InvertedAttentionCapsules, name: str) -> OriginalTensor:
    matrix = (4, 5, 3) if layer.pose == "matrix" else (5, 3, 4)
    if layer.kernel_size is not None:
        return OriginalTensor.of(f"{name}.w", layer.kernel, axes=(0, 1, 2, *matrix))
    height, width, types, *_ = layer.kernel.shape
    others = [layer.kernel.shape[axis] for axis in matrix]
    return OriginalTensor.of(
        f"{name}.w", layer.kernel, shape=(types * height * width, *others), axes=(2, 0, 1, *matrix)
    )
