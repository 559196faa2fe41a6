"""Every layer passes Keras' own test of a layer: `run_layer_test`."""

import keras
import pytest
import torch
from keras.src.testing import TestCase  # a test may: the package takes private parts from keras_internals alone
from support.layer_cases import CASES, MAP
from support.layer_check import with_batch

from encapkeras.layers import LAYERS, CapsuleStage, EmCapsules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:The model does not have any trainable weights", "ignore:`shuffle=True` was passed"
    ),
]


@pytest.fixture
def run(monkeypatch):
    """Keras' test. It leaves mixed precision out where torch has no GPU, although a CPU computes it too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return TestCase("run_layer_test").run_layer_test


# Their layers draw logits anew in each training step.
SEEDED = ("interest_capsules", "interest_capsules by length")


def counts(trainable, moving, losses=0, seeds=0):
    return {
        "expected_num_trainable_weights": trainable,
        "expected_num_non_trainable_weights": moving,
        "expected_num_non_trainable_variables": moving + seeds,
        "expected_num_seed_generators": seeds,
        "expected_num_losses": losses,
        "expected_output_dtype": "float32",
    }


def output_shape(layer_class, arguments, input_shape):
    return layer_class(**arguments).compute_output_shape(with_batch(input_shape))


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_a_layer_of_keras(case, run):
    layer_class, arguments, shape, trainable, moving = CASES[case]
    expected = output_shape(layer_class, arguments, shape)
    numbers = counts(trainable, moving, seeds=int(case in SEEDED))
    run(layer_class, arguments, with_batch(shape), expected_output_shape=expected, **numbers)


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name][0].regularizable])
def test_a_regularized_and_constrained_layer_is_one_too(case, run):
    layer_class, arguments, shape, trainable, moving = CASES[case]
    weights = layer_class.regularizable
    regularizers = {f"{weight}_regularizer": keras.regularizers.L2(0.1) for weight in weights}
    constraints = {f"{weight}_constraint": "non_neg" for weight in weights}
    arguments = {**arguments, **regularizers, **constraints, "activity_regularizer": "l2"}
    numbers = counts(trainable, moving, losses=trainable + 1, seeds=int(case in SEEDED))
    run(layer_class, arguments, with_batch(shape), **numbers)


def test_the_ports_of_a_stage_pass_it_too(run):
    shapes = dict.fromkeys(CapsuleStage.ports, (2, 3, 3, 4, 4)) | {"input": (2, *MAP)}
    expected = {**counts(14, 6), "expected_output_dtype": dict.fromkeys(shapes, "float32")}
    options = {"call_kwargs": {"return_ports": True}, "run_training_check": False}  # Keras' trains one tensor
    run(CapsuleStage, {"types": 4, "dim": 4}, (2, *MAP), expected_output_shape=shapes, **options, **expected)


def test_capsules_with_activations_pass_it_too(run):
    shapes = [(2, *MAP), (2, *MAP[:-1])]
    run(EmCapsules, {"capsules": 5, "dim": 3}, shapes, expected_output_shape=(2, 5, 3), **counts(4, 0))


def test_every_registered_layer_has_passed():
    ours = {entry.target for entry in LAYERS.values() if entry.target.__module__.startswith("encapkeras.")}
    assert ours == {case[0] for case in CASES.values()}
