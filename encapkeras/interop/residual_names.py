"""The original's names for a ResNet of residual blocks (He et al. 2016): `conv1`, `layer1.0.conv1`, ..., `fc`.

A block is two convolutions with batch norm, ReLU after the first and after the sum with the skip. A block with strides,
or whose skip is a convolution, begins the next `layerL`.
"""

from __future__ import annotations

from typing import NamedTuple

import keras

from encapkeras.interop.connections import Connections, Place, no_counterpart
from encapkeras.interop.layer_names import convolution_tensors, keras_tensors, other_weights
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.layers import ConvBnRelu
from encapkeras.spec.nodes import Reference

_FIRST = {"convolution": "conv1", "norm": "bn1"}


class _Block(NamedTuple):
    """A residual block: the places of its parts, and the place before it."""

    first: Place
    second: tuple[Place, Place]
    projection: tuple[Place, Place] | None
    source: Place

    @property
    def parts(self) -> list[Place]:
        return [self.first, *self.keras_parts]

    @property
    def keras_parts(self) -> list[Place]:
        return [*self.second, *(self.projection or ())]


def is_residual(connections: Connections) -> bool:
    """Return whether a network has sums, convolutions of Keras and a dense layer at its end, as a ResNet has."""
    layers = [place.layer for place in connections.places.values()]
    made = (keras.layers.Add, keras.layers.Conv2D)
    ends_dense = isinstance(connections.output().layer, keras.layers.Dense)
    return ends_dense and all(any(isinstance(layer, kind) for layer in layers) for kind in made)


def residual_tensors(connections: Connections) -> list[OriginalTensor]:
    """Return all tensors of the original's state dict for a ResNet; an error names parts that are not such blocks."""
    scores = connections.output()
    blocks, stem = _blocks(connections, scores)
    problems = connections.obstacles()
    if stem is None or not isinstance(stem.layer, ConvBnRelu) or connections.behind(stem.node.inputs[0]):
        problems.append(f"{stem or 'the input'} is in the place of a residual block or the first convolution")
    named = {scores.name, *(part.name for block in blocks for part in block.parts), *([stem.name] if stem else [])}
    beside = [place for name, place in connections.with_weights().items() if name not in named]
    problems += [f"{place} is not part of a residual block" for place in beside]
    keras_places = [scores, *(part for block in blocks for part in block.keras_parts)]
    problems += [f"{place} {others}" for place in keras_places if (others := other_weights(place.layer))]
    side_losses = connections.model.side_losses.items()
    problems += [f"loss '{name}' has no counterpart" for name, loss in side_losses if loss.weights]
    if problems:
        raise no_counterpart(connections.model, problems)
    tensors = convolution_tensors(stem.layer, "", _FIRST) if stem else []
    return [*tensors, *_of_blocks(blocks), *keras_tensors(scores.layer, "fc.")]


def _blocks(connections: Connections, scores: Place) -> tuple[list[_Block], Place | None]:
    """Return the residual blocks from the first to the last, and the place before the first."""
    blocks: list[_Block] = []
    place = connections.behind(scores.node.inputs[0])
    while place is not None:
        block = _block(connections, place)
        if block is None:
            break
        blocks.insert(0, block)
        place = block.source
    return blocks, place


def _block(connections: Connections, place: Place) -> _Block | None:
    """Return the block that ends in a sum; None if it is not one."""
    if not isinstance(place.layer, keras.layers.Add) or len(place.node.inputs) != 2:
        return None
    for residual, skip in (place.node.inputs, place.node.inputs[::-1]):
        second = _convolution(connections, residual)
        first = second and connections.behind(second[0].node.inputs[0])
        source = first and connections.behind(first.node.inputs[0])
        if second is None or first is None or source is None or not isinstance(first.layer, ConvBnRelu):
            continue
        projection = _convolution(connections, skip)
        skips_from = connections.behind(projection[0].node.inputs[0] if projection else skip)
        if skips_from == source:
            return _Block(first, second, projection, source)
    return None


def _convolution(connections: Connections, reference: Reference) -> tuple[Place, Place] | None:
    """Return the convolution and the batch norm that made a tensor; None if others did."""
    norm = connections.behind(reference)
    if norm is None or not isinstance(norm.layer, keras.layers.BatchNormalization):
        return None
    convolution = connections.behind(norm.node.inputs[0])
    if convolution is None or not isinstance(convolution.layer, keras.layers.Conv2D):
        return None
    return convolution, norm


def _of_blocks(blocks: list[_Block]) -> list[OriginalTensor]:
    tensors = []
    layer, number = 0, 0
    for block in blocks:
        begins = not layer or block.projection or block.first.layer.strides > 1
        layer, number = (layer + 1, 0) if begins else (layer, number + 1)
        prefix = f"layer{layer}.{number}."
        tensors += convolution_tensors(block.first.layer, prefix, _FIRST)
        for place, name in zip(block.second, ("conv2", "bn2"), strict=True):
            tensors += keras_tensors(place.layer, f"{prefix}{name}.")
        for part, place in enumerate(block.projection or ()):
            tensors += keras_tensors(place.layer, f"{prefix}downsample.{part}.")
    return tensors
