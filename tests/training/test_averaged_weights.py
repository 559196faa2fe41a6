"""The moving average of the weights: what it is, where it counts, and that training goes on as without it."""

import keras
import numpy as np
import pytest
import torch

from encapkeras import load_model, load_spec
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.training import train
from encapkeras.training.callbacks import Checkpoints, ValidateAverage
from encapkeras.training.optimizer.averaged_weights import averaged
from encapkeras.training.optimizer.make_optimizer import make_optimizer

IMAGES = np.random.default_rng(0).random((40, 6), dtype=np.float32)
LABELS = (IMAGES.sum(1) > 3).astype("int64")
DECAYS = [None, {"kind": "decoupled", "rate": 0.1}, {"kind": "coupled", "rate": 0.1}]


def small_model(decay=None, ema=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    settings = {"optimizer": {"kind": "adam", "learning_rate": 0.1}, "weight_decay": decay}
    settings |= {"ema": {"momentum": 0.7}} if ema else {}
    model.compile(
        make_optimizer(TrainSettings.model_validate(settings), 4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def values(model):
    return [weight.value.detach().clone() for weight in model.weights]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)


class Recorder(keras.callbacks.Callback):
    """The weights after each step, and as validation begins and ends for callbacks that come before or after."""

    def __init__(self):
        super().__init__()
        self.steps, self.validated, self.after = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(values(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.validated = values(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(values(self.model))


def fit(model, *callbacks, epochs=2):
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, "epochs": epochs}
    model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), callbacks=list(callbacks), **options)


def by_hand(steps, momentum=0.7):
    average = [weight.double() for weight in steps[0]]
    for weights in steps[1:]:
        average = [momentum * a + (1 - momentum) * w.double() for a, w in zip(average, weights, strict=True)]
    return average


@pytest.mark.parametrize("decay", DECAYS)
def test_validation_sees_the_average_of_all_steps(decay):
    recorder = Recorder()
    fit(small_model(decay), ValidateAverage(), recorder)
    for seen, expected in zip(recorder.validated, by_hand(recorder.steps), strict=True):
        torch.testing.assert_close(seen, expected.float(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(recorder.validated[0], recorder.steps[-1][0])


@pytest.mark.parametrize("decay", DECAYS)
def test_training_goes_on_with_the_weights_themselves(decay, tmp_path):
    with_average, without = Recorder(), Recorder()
    saving = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras")
    fit(small_model(decay), ValidateAverage(), saving, with_average, epochs=3)
    fit(small_model(decay, ema=False), without, epochs=3)
    for one, other in zip(with_average.steps, without.steps, strict=True):
        assert_equal(one, other)
    assert_equal(with_average.after[-1], with_average.steps[-1])


def test_checkpoints_hold_the_average(tmp_path):
    recorder = Recorder()
    model = small_model()
    fit(model, ValidateAverage(), Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras"), recorder)
    saved = keras.saving.load_model(tmp_path / "last.keras")
    assert_equal(values(saved), recorder.validated)
    assert_equal(values(model), recorder.validated)  # Keras leaves the average in place at the end


def test_the_average_may_be_asked_for_twice_and_an_error_puts_the_weights_back():
    model = small_model()
    model.train_on_batch(IMAGES, LABELS)
    model.train_on_batch(IMAGES, LABELS)
    raw = values(model)
    with pytest.raises(ZeroDivisionError), averaged(model):
        average = values(model)
        with averaged(model):
            assert_equal(values(model), average)
        assert_equal(values(model), average)
        raise ZeroDivisionError
    assert_equal(values(model), raw)
    assert not torch.equal(average[0], raw[0])


@pytest.mark.parametrize("steps", [0, 1])
def test_without_an_average_the_weights_stay(steps):
    """Before the first step there is none yet; without `ema` there is never one."""
    model = small_model(ema=steps == 0)
    for _ in range(steps):
        model.train_on_batch(IMAGES, LABELS)
    raw = values(model)
    with averaged(model):
        assert_equal(values(model), raw)
    with averaged(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])):
        pass


def test_a_run_validates_and_tests_the_average(tmp_path):
    nodes = {
        "flat": {"layer": "keras.Flatten", "inputs": "image"},
        "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$classes"},
    }
    spec = {
        "spec": "encapkeras/1",
        "name": "averaged",
        "data": {"dataset": "digits", "image_size": 8},
        "model": {"nodes": nodes, "outputs": {"classes": "scores"}},
        "losses": {"classes": {"loss": "cross_entropy"}},
        "train": {"epochs": 2, "optimizer": {"kind": "adam", "learning_rate": 0.5}, "ema": {"momentum": 0.9}},
    }
    results = train(load_spec(spec), tmp_path / "with")
    plain = train(load_spec(spec, ["train.ema=null"]), tmp_path / "without")
    averages = load_model(tmp_path / "with" / "checkpoints" / "last.keras").get_weights()
    weights = load_model(tmp_path / "without" / "checkpoints" / "last.keras").get_weights()
    assert np.abs(averages[0]).mean() < 0.99 * np.abs(weights[0]).mean()  # steps to and fro cancel out
    assert results["test_loss"] != plain["test_loss"]
    assert results["test_accuracy"] > 0.8
