"""The names and layouts that published weights of Efficient-CapsNet have (EscVM/Efficient-CapsNet, Keras 2).

A node is called as its part: `conv1`, `bn1` or `in1`, `primary`, `caps`. The decoder, wherever the spec has its loss,
is `decoder.dense1` and on, and `decoder.conv1` and on.
"""

from __future__ import annotations

import math

import keras

from encapkeras.interop.connections import Connections, LackingError, Place, no_counterpart
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.interop.window_names import refuse_unpublished
from encapkeras.layers import PrimaryCapsules, SelfAttentionCapsules
from encapkeras.losses import ReconstructionLoss

DECODER = "decoder."
_HAVE_COUNTERPARTS = (
    "Efficient-CapsNet has keras.Conv2D, keras.BatchNormalization, keras.GroupNormalization, primary_capsules with "
    "'depthwise', self_attention_capsules, and one reconstruction loss. Layers without weights may stand anywhere."
)
_KERAS = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.GroupNormalization)
_TO_KERAS = (2, 3, 1, 0)
"""From a kernel `(C_out, C_in, K, K)` to `(K, K, C_in, C_out)`."""


def is_efficient(connections: Connections) -> bool:
    """Return whether a network has the routing that only this code has."""
    return any(isinstance(place.layer, SelfAttentionCapsules) for place in connections.places.values())


def efficient_tensors(connections: Connections) -> list[OriginalTensor]:
    """Return all tensors by the names of their nodes; an error names all parts that have none."""
    tensors: list[OriginalTensor] = []
    problems: list[str] = []
    for place in connections.with_weights().values():
        try:
            tensors += _of_place(place)
        except LackingError as lacking:
            problems.append(f"{place} {lacking}")
    decoders = [(name, loss) for name, loss in connections.model.side_losses.items() if loss.weights]
    for name, loss in decoders:
        if isinstance(loss, ReconstructionLoss) and len(decoders) == 1:
            tensors += _of_decoder(loss)
        else:
            problems.append(f"loss '{name}' has no counterpart")
    if problems:
        raise no_counterpart(connections.model, problems, _HAVE_COUNTERPARTS)
    return tensors


def _of_place(place: Place) -> list[OriginalTensor]:
    layer, name = place.layer, place.name
    if isinstance(layer, SelfAttentionCapsules):
        return _of_routing(layer, name)
    if isinstance(layer, PrimaryCapsules):
        return _of_primary_capsules(layer, name)
    if isinstance(layer, _KERAS):
        return [OriginalTensor.of(f"{name}.{weight.name}", weight) for weight in layer.weights]
    raise LackingError("has no counterpart")


def _of_routing(layer: SelfAttentionCapsules, name: str) -> list[OriginalTensor]:
    refuse_unpublished(layer)
    if layer.kernel_size is not None or layer.pose != "vector":
        raise LackingError("has windows or matrix poses, which the original does not")
    *children, outputs, dim, child_dim = layer.kernel.shape
    count = math.prod(children)
    matrices = OriginalTensor.of(
        f"{name}.W", layer.kernel, axes=(3, 0, 1, 2, 5, 4), shape=(outputs, count, child_dim, dim)
    )
    return [matrices, OriginalTensor.of(f"{name}.b", layer.bias, axes=(3, 0, 1, 2), shape=(outputs, count, 1))]


def _of_primary_capsules(layer: PrimaryCapsules, name: str) -> list[OriginalTensor]:
    if not layer.depthwise or layer.batch_norm:
        raise LackingError("is not depthwise, or has a batch norm, which the original does not have")
    kernel, bias = layer.weights
    return [OriginalTensor.of(f"{name}.kernel", kernel, axes=_TO_KERAS), OriginalTensor.of(f"{name}.bias", bias)]


def _of_decoder(loss: ReconstructionLoss) -> list[OriginalTensor]:
    if loss.decoder == "transposed" or loss.class_independent:
        raise LackingError("has another decoder than the original")
    tensors = []
    counts = {"dense": 0, "conv": 0}
    for kernel, bias in zip(loss.weights[::2], loss.weights[1::2], strict=True):
        kind = "dense" if len(kernel.shape) == 2 else "conv"
        counts[kind] += 1
        part = f"{DECODER}{kind}{counts[kind]}"
        axes = _TO_KERAS if kind == "conv" else None
        tensors += [OriginalTensor.of(f"{part}.kernel", kernel, axes=axes), OriginalTensor.of(f"{part}.bias", bias)]
    return tensors
