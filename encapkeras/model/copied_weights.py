"""The weights of layers for others; one may count the batches of its statistics where the other does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from encapkeras.errors import EncapkerasError, suggest
from encapkeras.functional.batch_norm import WARM_BATCHES
from encapkeras.layers.block_weights import is_count


def copy_layers(model: str, own: Mapping[str, keras.layers.Layer], source: keras.Model, leave: Sequence[str]) -> None:
    """Copy the weights of a model to the layers, by name, of another; see `SpecModel.copy_weights`."""
    for name in leave:
        if name not in own:
            raise EncapkerasError(
                f"'leave' has '{name}', which is not a node with weights of '{model}'. {suggest(name, own)}"
            )
    theirs = {layer.name: layer for layer in source.layers}
    taking = [layer for name, layer in own.items() if name not in leave]
    problems = {layer.name: problem for layer in taking if (problem := _unlike(layer, theirs.get(layer.name)))}
    if problems:
        raise EncapkerasError(
            f"the weights of '{source.name}' do not fit '{model}': {'; '.join(problems.values())}. To keep "
            f"what these nodes have, give leave=[{', '.join(map(repr, [*leave, *problems]))}]"
        )
    for layer in taking:
        _copy(layer, theirs[layer.name])


def _unlike(layer: keras.layers.Layer, other: keras.layers.Layer | None) -> str:
    """Say what keeps a layer from taking the weights of another; empty if nothing does."""
    if other is None:
        return f"it has no '{layer.name}'"
    here, there = ([tuple(weight.shape) for weight in _compared(each)] for each in (layer, other))
    return "" if here == there else f"'{layer.name}' has weights {here} here and {there} there"


def _copy(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Copy those of another layer, which is like it; without a count, its statistics are those of many batches."""
    for mine, given in zip(_compared(layer), _compared(other), strict=True):
        mine.assign(given)
    counts = {weight.name: weight for weight in other.weights if is_count(weight)}
    for weight in layer.weights:
        if is_count(weight):
            weight.assign(counts.get(weight.name, WARM_BATCHES))


def _compared(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [weight for weight in layer.weights if not is_count(weight)]
