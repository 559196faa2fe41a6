"""The weights of one layer for another; one may count the batches of its statistics where the other does not."""

from __future__ import annotations

import keras

from encapkeras.functional.batch_norm import WARM_BATCHES
from encapkeras.layers.block_weights import is_count


def unlike(layer: keras.layers.Layer, other: keras.layers.Layer | None) -> str:
    """Say what keeps a layer from taking the weights of another; empty if nothing does."""
    if other is None:
        return f"it has no '{layer.name}'"
    here, there = ([tuple(weight.shape) for weight in _compared(each)] for each in (layer, other))
    return "" if here == there else f"'{layer.name}' has weights {here} here and {there} there"


def copy_weights(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Copy those of another layer, which is like it; without a count, its statistics are those of many batches."""
    for mine, given in zip(_compared(layer), _compared(other), strict=True):
        mine.assign(given)
    counts = {weight.name: weight for weight in other.weights if is_count(weight)}
    for weight in layer.weights:
        if is_count(weight):
            weight.assign(counts.get(weight.name, WARM_BATCHES))


def _compared(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [weight for weight in layer.weights if not is_count(weight)]
