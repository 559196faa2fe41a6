"""Optimizers of recipes treat all weights at once, to the same bits as Keras' own, which treat one by one."""

import keras
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from encapkeras.spec.train_settings import TrainSettings
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.optimizer.make_optimizer import make_optimizer

SHAPES = [(3, 3, 5, 7), (7,), (33, 17), (), (1, 129)]
SETTINGS = {
    "momentum": {"optimizer": {"kind": "sgd", "learning_rate": 0.05, "nesterov": True}},
    "adam": {"optimizer": {"kind": "adam", "learning_rate": 0.05}},
    "rmsprop": {"optimizer": {"kind": "rmsprop", "learning_rate": 0.05}},
}
PARTS = {
    "average": {"ema": {"momentum": 0.99}},
    "clipped": {"clip_norm": 0.5},
    "not clipped": {"clip_norm": 1e6},
    "decoupled": {"weight_decay": {"kind": "decoupled", "rate": 0.1}, "ema": {"momentum": 0.7}},
    "coupled": {"weight_decay": {"kind": "coupled", "rate": 5e-4}, "ema": {"momentum": 0.99}, "clip_norm": 0.5},
    "accumulated": {"accumulate": 2, "clip_norm": 0.5, "ema": {"momentum": 0.9}},
}


def of_keras(optimizer):
    """The same optimizer without what the recipe has put into it."""
    if isinstance(optimizer, CoupledWeightDecay):
        return CoupledWeightDecay(of_keras(optimizer.inner_optimizer), optimizer.rate)
    return type(optimizer).from_config(optimizer.get_config())


def both(settings):
    optimizer = make_optimizer(TrainSettings.model_validate(settings), 4)
    return optimizer, of_keras(optimizer)


def after_steps(optimizer, dtypes=("float32",), steps=5, last=1.0):
    generator = torch.Generator().manual_seed(0)
    weights = [
        keras.Variable(torch.randn(shape, generator=generator), dtype=dtypes[i % len(dtypes)])
        for i, shape in enumerate(SHAPES)
    ]
    for step in range(steps):
        gradients = [torch.randn(w.shape[::-1], generator=generator).to(w.value.dtype) for w in weights]
        gradients = [gradient.permute(list(reversed(range(gradient.ndim)))) for gradient in gradients]
        gradients[-1] = gradients[-1] * (last if step == steps - 1 else 1.0)
        with torch.no_grad():
            optimizer.apply(gradients, weights)
    return [variable.value.detach() for variable in (*weights, *optimizer.variables)]


def assert_same_bits(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_have_the_bits_of_keras(kind, part, dtype):
    ours, theirs = both({**SETTINGS[kind], **PARTS[part]})
    assert_same_bits(after_steps(ours, [dtype]), after_steps(theirs, [dtype]))


def test_weights_of_different_dtypes():
    ours, theirs = both({"optimizer": {"kind": "sgd"}, **PARTS["average"]})
    dtypes = ("float32", "float64")
    assert_same_bits(after_steps(ours, dtypes), after_steps(theirs, dtypes))


@pytest.mark.parametrize("last", [float("inf"), float("nan"), 0.0])
def test_gradients_that_are_not_finite(last):
    ours, theirs = both({**SETTINGS["momentum"], **PARTS["clipped"], **PARTS["average"]})
    assert_same_bits(after_steps(ours, last=last), after_steps(theirs, last=last))


class Calls(TorchDispatchMode):
    """Counts operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def calls_of_step(optimizer, weights):
    gradients = [torch.ones(3) for _ in weights]
    with torch.no_grad():
        optimizer.apply(gradients, weights)
        with Calls() as calls:
            optimizer.apply(gradients, weights)
    return calls.count


@pytest.mark.parametrize(("part", "more"), [("average", 0), ("coupled", 45)])
def test_operations_do_not_grow_with_the_weights(part, more):
    """But for the sums of clipping, one for each weight, whose order decides the bits."""
    few, many = [], []
    for weights, counts in ((5, few), (50, many)):
        for optimizer in both({**SETTINGS["momentum"], **PARTS[part]}):
            counts.append(calls_of_step(optimizer, [keras.Variable(torch.ones(3)) for _ in range(weights)]))
    assert many[0] - few[0] == more
    assert many[1] - few[1] >= 45 * 9
