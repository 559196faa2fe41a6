"""Batches whose loss or gradients are not finite."""

import keras
import numpy as np
import pytest
import torch
from support.tiny_spec import tiny_spec

from encapkeras import build_model
from encapkeras.callbacks import MetricsFile, NonFiniteStop
from encapkeras.errors import TrainingError
from encapkeras.training.callbacks.non_finite_stop import write_batch

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((40, 32, 32, 1), dtype=np.float32)
LABELS = np.arange(40) % 10


@keras.saving.register_keras_serializable(package="tests")
class RootOfAbsolute(keras.layers.Layer):
    """Finite at 0, where its gradient is not."""

    def call(self, x):
        return x.abs().sqrt()


def compiled(model=None, **options):
    keras.utils.set_random_seed(0)
    model = model or build_model(tiny_spec())
    losses = model.make_losses() if hasattr(model, "make_losses") else "sparse_categorical_crossentropy"
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": losses, "metrics": ["accuracy"], **options})
    return model


def with_root():
    """A model whose gradients are not finite for an image of zeros."""
    inputs = keras.Input((32, 32, 1))
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(inputs))
    hidden = RootOfAbsolute()(keras.layers.Dense(8, use_bias=False, name="hidden")(pooled))
    return compiled(keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="scores")(hidden)))


def fit(model, images, *callbacks, epochs=1):
    return model.fit(
        images, LABELS, batch_size=10, epochs=epochs, shuffle=False, callbacks=list(callbacks), verbose=0
    ).history


def with_bad(images, value, *indices):
    images = images.copy()
    images[list(indices)] = value
    return images


def test_a_bad_batch_is_left_out_as_if_it_was_not_there(capsys):
    model, without = compiled(), compiled()
    stop = NonFiniteStop(max_bad_batches=1)
    history = fit(model, with_bad(IMAGES, np.nan, 23), stop)
    assert stop.bad_batches == [(1, 3)]
    assert "skipped: the loss became nan in epoch 1, step 3 (1 of at most 1)." in capsys.readouterr().err

    kept = np.r_[0:20, 30:40]
    keras.utils.set_random_seed(0)
    expected = without.fit(IMAGES[kept], LABELS[kept], batch_size=10, shuffle=False, verbose=0).history
    assert int(model.optimizer.iterations) == 3
    assert history["loss"] == pytest.approx(expected["loss"], rel=0.05)  # dropout draws other numbers
    assert all(torch.isfinite(weight.value).all() for weight in model.weights)


def test_moving_statistics_take_nothing_from_a_bad_batch():
    inputs = keras.Input((32, 32, 1))
    hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Flatten()(inputs))
    model = compiled(keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(hidden)))
    fit(model, with_bad(IMAGES, np.inf, 5, 15, 25, 35), NonFiniteStop(max_bad_batches=4))
    norm = model.get_layer("norm")
    assert (norm.moving_mean.value == 0).all()
    assert (norm.moving_variance.value == 1).all()


def test_one_bad_batch_too_many_ends_the_training(tmp_path):
    stop = NonFiniteStop(max_bad_batches=2, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1, step 4: .*epoch_1_step_4\.npz"):
        fit(compiled(), with_bad(IMAGES, np.nan, 3, 13, 33), stop)
    assert stop.bad_batches == [(1, 1), (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch_1_step_{step}.npz" for step in (1, 2, 4)]


def test_the_batch_is_kept_for_a_bug_report(tmp_path):
    images = with_bad(IMAGES, np.nan, 14)
    with pytest.raises(TrainingError, match=r"The batch is in .*epoch_1_step_2\.npz\."):
        fit(compiled(), images, NonFiniteStop(folder=tmp_path))
    kept = np.load(tmp_path / "epoch_1_step_2.npz")
    np.testing.assert_array_equal(kept["x"], images[10:20])
    np.testing.assert_array_equal(kept["y"], LABELS[10:20])


def test_gradients_that_are_not_finite_end_the_training_before_the_weights_change():
    model = with_root()
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    with pytest.raises(
        TrainingError,
        match=r"gradients became non-finite in epoch 1, step 1: that of weight 'hidden/kernel' is the first .*learning",
    ):
        fit(model, with_bad(IMAGES, 0.0, 4), NonFiniteStop())
    for weight, kept in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept)


def test_a_batch_with_bad_gradients_is_left_out():
    model = with_root()
    stop = NonFiniteStop(max_bad_batches=1)
    fit(model, with_bad(IMAGES, 0.0, 4), stop)
    assert stop.bad_batches == [(1, 1)]
    assert int(model.optimizer.iterations) == 3
    assert all(torch.isfinite(weight.value).all() for weight in model.weights)


def test_large_gradients_are_no_bad_ones():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(np.full((4, 1), 1e15), np.full((4, 1), -1e15), callbacks=[NonFiniteStop()], verbose=0)


def test_the_optimizer_is_left_as_it_was():
    model = compiled()
    fit(model, IMAGES, NonFiniteStop())
    assert "apply" not in vars(model.optimizer)
    with pytest.raises(TrainingError):
        fit(model, with_bad(IMAGES, np.nan, 0), NonFiniteStop())
    assert "apply" not in vars(model.optimizer)
    assert model.loss_watcher is None


def test_metrics_hold_no_bad_batch(tmp_path):
    model = compiled()
    fit(
        model, with_bad(IMAGES, np.nan, 35), NonFiniteStop(max_bad_batches=2), MetricsFile(tmp_path / "m.csv"), epochs=2
    )
    assert "nan" not in (tmp_path / "m.csv").read_text()


def test_each_of_several_inputs_is_an_array_of_its_own(tmp_path):
    path = tmp_path / "bad" / "batch.npz"
    write_batch(path, {"image": np.zeros((2, 4, 4, 1)), "mask": np.ones(2)}, np.array([3, 1]))
    with np.load(path) as written:
        shapes = {name: array.shape for name, array in written.items()}
    assert shapes == {"x_image": (2, 4, 4, 1), "x_mask": (2,), "y": (2,)}
