"""Weights from one model to another, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from encapkeras.errors import EncapkerasError, suggest


def copy_weights(model: str, own: Mapping[str, keras.layers.Layer], source: keras.Model, leave: Sequence[str]) -> None:
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
        for mine, given in zip(layer.weights, theirs[layer.name].weights, strict=True):
            mine.assign(given)


def _unlike(layer: keras.layers.Layer, other: keras.layers.Layer | None) -> str:
    if other is None:
        return f"it has no '{layer.name}'"
    here, there = ([tuple(weight.shape) for weight in each.weights] for each in (layer, other))
    return "" if here == there else f"'{layer.name}' has weights {here} here and {there} there"
