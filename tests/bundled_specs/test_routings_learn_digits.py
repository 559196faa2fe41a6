"""The networks of one trunk learn digits, whatever routes in them, and all weights of the routings take part."""

import math

import keras
import pytest
import torch

from encapkeras import build_model, load_spec
from encapkeras.layers import HomogeneousVectorCapsules
from encapkeras.training import train

# What each reaches at least in two epochs; chance is 0.1.
LEARNED = {
    "affine": 0.6,
    "attention": 0.85,
    "dynamic": 0.5,
    "em": 0.5,
    "heinsen_2019": 0.6,
    "heinsen_2022": 0.7,
    "homogeneous_vectors": 0.7,
    "self": 0.7,
    "self_attention": 0.5,
    "uniform": 0.7,
    "variational_bayes": 0.4,
}


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_reach_every_weight_of_a_routing(name):
    keras.utils.set_random_seed(0)
    model = build_model(f"routing_{name}")
    (loss,) = model.make_losses().values()
    for weight in model.trainable_weights:  # some start at 0, and keep gradients from those before them
        weight.assign(weight.value + 0.1 * torch.randn(weight.shape))
    images, labels = torch.rand(4, 28, 28, 1), torch.tensor([3, 1, 4, 1])
    loss(labels, model(images, training=True)).backward()
    routing = [layer for layer in model.layers if getattr(layer, "drawn_as", "") == "routing"]
    routing += [layer for layer in model.layers if isinstance(layer, HomogeneousVectorCapsules)]
    assert routing
    for weight in (weight for layer in routing for weight in layer.trainable_weights):
        assert weight.value.grad is not None, weight.path
        assert weight.value.grad.abs().max() > 0, weight.path


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_each_routing_learns_digits_in_two_epochs(name, tmp_path):
    results = train(load_spec(f"routing_{name}", ["train.epochs=2"]), tmp_path / "run")
    assert results["test_accuracy"] >= LEARNED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_each_routing_trains_in_bfloat16(name, tmp_path):
    changes = ["train.epochs=1", "train.precision=bfloat16", "vars.types=4"]
    results = train(load_spec(f"routing_{name}", changes), tmp_path / "run")
    assert math.isfinite(results["test_loss"])
