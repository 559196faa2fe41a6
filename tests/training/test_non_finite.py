"""A loss that is not finite stops the training, and the message says where it comes from."""

import copy
import re
import subprocess

import keras
import numpy as np
import pytest
import torch
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras import build_model
from encapkeras.errors import TrainingError
from encapkeras.losses import SideLoss, register_loss
from encapkeras.losses.registry import LOSSES
from encapkeras.training.callbacks import NonFiniteStop
from encapkeras.training.non_finite import cause_of

IMAGES = np.random.default_rng(0).uniform(0.1, 1, (6, 8, 8, 1)).astype("float32")
LABELS = np.arange(6)

SPEC = {
    "name": "fragile",
    "data": {"dataset": "digits", "image_size": 8},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4, "strides": 2},
            "stage": {"layer": "capsule_stage", "inputs": "stem", "types": 2, "dim": 4},
            "scaled": {"layer": "keras.Rescaling", "inputs": "image", "scale": 1.0},
            "flat": {"layer": "keras.Flatten", "inputs": "scaled"},
            "hidden": {"layer": "keras.Dense", "inputs": "flat", "units": 8},
            "capsules": {"layer": "capsule_dense", "inputs": "stage", "capsules": "$classes", "dim": 4},
            "scores": {"layer": "capsule_length", "inputs": "capsules"},
            "more": {"layer": "keras.Dense", "inputs": "hidden", "units": "$classes"},
            "both": {"layer": "keras.Add", "inputs": ["scores", "more"]},
        },
        "outputs": {"classes": "both"},
    },
    "losses": {"classes": {"loss": "margin"}},
}


def compiled(changes=None, losses=None):
    spec = copy.deepcopy(SPEC)
    for node, arguments in (changes or {}).items():
        spec["model"]["nodes"][node].update(arguments)
    spec["losses"].update(losses or {})
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=model.make_losses(), loss_weights=model.loss_weights)
    return model


def stopped(model, images=IMAGES, **options):
    """The message that ends the training; batches are as given, not shuffled."""
    with pytest.raises(TrainingError) as caught:
        model.fit(
            images, LABELS, batch_size=3, shuffle=False, verbose=0, callbacks=[NonFiniteStop()], epochs=2, **options
        )
    return str(caught.value)


def test_the_first_node_whose_output_is_not_finite_is_named():
    message = stopped(compiled({"scaled": {"scale": 1e300}}))  # infinite as a float32
    assert message.startswith("the loss became inf in epoch 1, step 1: ") or "nan in epoch 1, step 1: " in message
    assert "the output of node 'scaled' is the first that is not finite, in 192 of 192 numbers. Try" in message


def test_the_port_is_named(monkeypatch):
    model = compiled()
    stage = model.get_layer("stage")
    call = stage.call

    def broken(*args, **kwargs):
        ports = call(*args, **kwargs)
        return {**ports, "half": ports["half"] / 0, "out": ports["out"] / 0}

    monkeypatch.setattr(stage, "call", broken)
    assert "the port 'half' of node 'stage' is the first" in stopped(model)


def test_the_weights_are_still_those_that_gave_the_loss():
    model = compiled({"scaled": {"scale": 1e300}})
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    stopped(model)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert model.loss_watcher is None


def test_an_image_that_is_not_finite_is_named():
    images = IMAGES.copy()
    images[4, 2, 2] = np.nan
    message = stopped(compiled(), images)
    assert "the loss became nan in epoch 1, step 2: the input 'image' of 1 of 3 samples is not finite" in message
    assert "first that of sample 1. Look for such values in the data" in message


def test_a_sample_weight_that_is_not_finite_is_named():
    assert "the weight of 1 of 3 samples" in stopped(compiled(), sample_weight=np.array([1, np.inf, 1, 1, 1, 1]))


def test_a_weight_that_became_infinite_before_is_named():
    model = compiled()
    model.get_layer("hidden").bias.assign(np.full(8, np.nan))
    message = stopped(model)
    assert "weight 'hidden/bias' was already not finite before this step" in message


NORMED = {
    "name": "normed",
    "data": {"dataset": "digits", "image_size": 8},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4},
            "norm": {"layer": "keras.BatchNormalization", "inputs": "stem"},
            "maps": {"layer": "keras.Conv2D", "inputs": "norm", "filters": 4, "kernel_size": 3},
            "flat": {"layer": "keras.Flatten", "inputs": "maps"},
            "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$classes"},
        },
        "outputs": {"classes": "scores"},
    },
    "losses": {"classes": {"loss": "margin"}},
}


def diverging(spec):
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    model.compile(optimizer=keras.optimizers.Adam(1e30), loss=model.make_losses())
    return model


def test_statistics_that_the_step_would_spoil_are_kept_and_not_taken_for_the_cause():
    """The first step makes weights of 1e30, whose squares no variance can hold."""
    model = diverging(NORMED)
    message = stopped(model)
    assert all(torch.isfinite(weight.value).all() for weight in model.non_trainable_weights)
    # Which of them depends on the sign of rounding noise: the norm takes back what the scale before it does.
    assert re.search("step 2: the output of node '(norm|maps)' is the first that is not finite", message)
    assert "statistics" not in message


def test_looking_for_the_cause_changes_no_statistics():
    model = compiled({"scaled": {"scale": 1e300}})
    seen = []

    def look(step):
        seen.append([weight.numpy().copy() for weight in model.non_trainable_weights])
        seen.append(cause_of(model, step)[1])
        seen.append([weight.numpy().copy() for weight in model.non_trainable_weights])
        raise StopIteration  # the graph of the step is spoilt

    model.loss_watcher = look
    first = [weight.numpy().copy() for weight in model.non_trainable_weights]
    with pytest.raises(StopIteration):
        model.fit(IMAGES, LABELS, verbose=0)
    before, message, after = seen
    assert "node 'scaled'" in message
    assert any((one != other).any() for one, other in zip(first, before, strict=True))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_frozen_weight_that_is_not_finite_is_named():
    model = compiled()
    model.get_layer("hidden").bias.assign(np.full(8, np.nan))
    model.get_layer("hidden").trainable = False
    assert "weight 'hidden/bias' was already not finite before this step" in stopped(model)


def test_a_loss_that_is_not_finite_by_itself_is_named():
    @register_loss("test_endless")
    class Endless(SideLoss):
        """Is never finite.

        Call arguments:
            features: Any tensor.
        """

        def call(self, features: torch.Tensor) -> torch.Tensor:
            return features.flatten(1).sum(1) / 0

    try:
        model = compiled(losses={"endless": {"loss": "test_endless", "features": "hidden"}})
        message = stopped(model)
        spoilt = next(weight for weight in model.weights if weight.path == "stem/norm_variance")
        spoilt.assign(np.full(4, np.inf))
        beside = stopped(model)
    finally:
        del LOSSES._entries["test_endless"]
    assert "the outputs of all nodes are finite; what is not is the loss itself: 'endless'. Try" in message
    assert "the loss itself: 'endless' (nor are moving statistics: stem/norm_variance). Try" in beside


def test_a_finite_training_is_not_stopped_and_nothing_stays_behind():
    model = compiled()
    plain = compiled()
    model.fit(IMAGES, LABELS, verbose=0, shuffle=False, callbacks=[NonFiniteStop()])
    plain.fit(IMAGES, LABELS, verbose=0, shuffle=False)
    assert model.loss_watcher is None
    for one, other in zip(model.weights, plain.weights, strict=True):
        assert (one.value == other.value).all()


def test_the_command_ends_with_one_message_and_exit_code_2(tmp_path):
    spec = tiny_spec()
    spec["model"]["nodes"]["pool"] = {"layer": "keras.Rescaling", "inputs": "image", "scale": 1e300}
    command = [*warm_python(), "-m", "encapkeras", "train", str(write_spec(tmp_path, spec)), "--run-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the output of node 'pool' is the first that is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert "No epoch was complete" in done.stderr
