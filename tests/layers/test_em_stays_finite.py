"""EM routing trains for one to five iterations, whatever it is fed: no NaN, and the loss falls."""

import keras
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from encapkeras.layers import CapsuleLength, CapsulesToImage, ConvBnRelu, EmCapsules, PrimaryCapsules
from encapkeras.losses import CrossEntropyLoss

STEPS = 16
ITERATIONS = [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow), 5]


def digits(count=20):
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images[:count].reshape(-1, 8, 8, 1) / 16).float(), torch.from_numpy(labels[:count])


def network(iterations, normalize_distances=False, scale=1.0, activations_scale=1.0):
    """A small CapsNet on digits of 8x8; capsules and activations are multiplied right before the routing."""
    image = keras.Input((8, 8, 1))
    primary = PrimaryCapsules(16, 4, 3, padding=1, batch_norm=True, relu=True, squash=False)(image)
    capsules = keras.layers.Rescaling(scale)(primary)
    chances = keras.layers.Rescaling(activations_scale)(ConvBnRelu(16, 3)(CapsulesToImage()(primary)))
    layer = EmCapsules(capsules=10, dim=4, iterations=iterations, normalize_distances=normalize_distances)
    return keras.Model(image, CapsuleLength()(layer([capsules, chances])))


def train(model, images, labels):
    """The losses of some steps; every loss, gradient and weight is a finite number."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss_of = CrossEntropyLoss()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(labels, model(images, training=True))
        loss.backward()
        gradients = [weight.value.grad for weight in model.trainable_weights]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
        optimizer.step()
        assert all(torch.isfinite(weight.value).all() for weight in model.weights)
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    return losses


EVERY_SECOND = np.array([1.0, 0.0] * 8)
CASES = {
    "digits": {},
    "capsules times 1e4": {"scale": 1e4},
    "capsules times 1e-4": {"scale": 1e-4},
    "half of the activations zero": {"activations_scale": EVERY_SECOND},
    "half of the capsules zero": {"scale": EVERY_SECOND[:, None]},
    "distances normalized": {"normalize_distances": True},
    "distances normalized, times 1e4": {"normalize_distances": True, "scale": 1e4},
}


@pytest.mark.parametrize("iterations", ITERATIONS)
@pytest.mark.parametrize("case", CASES)
def test_em_learns_digits(case, iterations):
    keras.utils.set_random_seed(0)
    losses = train(network(iterations, **CASES[case]), *digits())
    assert np.mean(losses[-4:]) < losses[0]


FINITE = {
    "constant images": (torch.ones_like, {}),
    "black images": (torch.zeros_like, {}),
    "activations zero": (torch.clone, {"activations_scale": 0.0}),
    "capsules zero": (torch.clone, {"scale": 0.0}),
}


PAIRS = [  # every case with every number of iterations, either with and without normalized distances
    pytest.param(case, bool((row + number // 2) % 2), number, marks=pytest.mark.slow if number in (2, 4) else ())
    for row, case in enumerate(FINITE)
    for number in range(1, 6)
]


@pytest.mark.parametrize(("case", "normalize_distances", "iterations"), PAIRS)
def test_em_stays_finite_where_nothing_can_be_learnt(case, normalize_distances, iterations):
    keras.utils.set_random_seed(0)
    change, options = FINITE[case]
    images, labels = digits()
    train(network(iterations, normalize_distances, **options), change(images), labels)


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_em_with_equal_votes_and_no_density_floor_stays_finite(iterations):
    """Equal capsules of one type whose matrices are equal: every variance is 0."""
    layer = EmCapsules(capsules=5, dim=4, iterations=iterations, density_floor=0.0, kernel_initializer="ones")
    capsules = torch.ones(2, 3, 3, 1, 4, requires_grad=True)
    outputs = layer([capsules, torch.ones(2, 3, 3, 1)], return_ports=True)
    sum(port.square().sum() for port in outputs.values()).backward()
    tensors = [*outputs.values(), capsules.grad, *(weight.value.grad for weight in layer.weights)]
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    assert torch.allclose(outputs["out"], torch.full_like(outputs["out"], 4.0))
