"""Layers called with given tensors as weights, such as those of golden files; gradients reach them."""

from pathlib import Path

import keras
from golden import check

GOLDEN = Path(__file__).parent.parent / "golden"


def golden_files(beginning, folder="routings_a"):
    """The golden files of a method."""
    return [path for path in check.files(GOLDEN / folder) if path.stem.startswith(beginning)]


def called(layer, inputs, weights, **options):
    """What a layer makes of inputs with the tensors as its weights, by the names that follow its own in their paths."""
    if not layer.built:
        layer.build(keras.tree.map_structure(lambda tensor: tuple(tensor.shape), inputs))
    by_name = {weight.path.partition("/")[2]: weight for weight in layer.weights}
    assert set(by_name) == set(weights)
    for name, weight in by_name.items():
        assert tuple(weight.shape) == tuple(weights[name].shape), name
    with keras.StatelessScope(state_mapping=[(by_name[name], weights[name]) for name in by_name]):
        return layer(inputs, **options)
