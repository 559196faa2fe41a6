"""DeepCaps: the size of its encoder, and signals that are alive at the start."""

import keras
import pytest
import torch

from encapkeras import build_model

ENCODERS = {"deepcaps_mnist": 8_441_920, "deepcaps_cifar10_small": 8_444_224, "deepcaps_cifar10": 13_359_424}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_has_as_many_parameters_as_the_authors(name):
    with keras.device("meta"):
        model = build_model(name)
    trainable = [layer for layer in model.layers if layer not in model.side_losses.values()]
    assert sum(layer.count_params() for layer in trainable) == ENCODERS[name] + 256  # moving statistics


def test_capsules_are_alive_at_the_start():
    """The lengths that the authors' code has at its start with the Keras that it was written for."""
    keras.utils.set_random_seed(0)
    model = build_model("deepcaps_mnist")
    cells = keras.Model(model.inputs, [model.get_layer(f"cell{number}:sum").output for number in (1, 2, 3)])
    images = torch.rand(4, 28, 28, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        lengths = [float(capsules.norm(dim=-1).mean()) for capsules in cells(images, training=True)]
    assert lengths == pytest.approx([0.65, 0.57, 0.33], abs=0.1)
