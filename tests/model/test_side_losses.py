"""Losses that look into the network: in fit and evaluate, and in the user's own script."""

import csv

import keras
import numpy as np
import pytest
import torch
from support.side_loss_spec import IMAGES, LABELS, SIDE, SPEC, compiled, parts, spec_with, without_output_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras import SpecError, build_model, check_spec, load_model, load_spec
from encapkeras.losses import SideLoss
from encapkeras.training import train


def test_fit_shows_the_loss_and_lets_it_fall():
    model = compiled(optimizer=keras.optimizers.Adam(0.02))
    history = model.fit(IMAGES, LABELS, epochs=20, validation_data=(IMAGES, LABELS), verbose=0).history
    assert set(history) == {
        *("loss", "accuracy", "reconstruction_loss"),
        *("val_loss", "val_accuracy", "val_reconstruction_loss"),
    }
    assert history["reconstruction_loss"][-1] < 0.9 * history["reconstruction_loss"][0]
    assert history["val_reconstruction_loss"][-1] < 0.9 * history["val_reconstruction_loss"][0]


def test_evaluate_adds_the_loss_times_its_weight():
    model = compiled()
    logs = model.evaluate(IMAGES, LABELS, batch_size=4, return_dict=True, verbose=0)
    margin, reconstruction = parts(model)
    assert logs["reconstruction_loss"] == pytest.approx(reconstruction.mean().item(), rel=1e-5)
    assert logs["loss"] == pytest.approx((margin.mean() + 0.01 * reconstruction.mean()).item(), rel=1e-5)


def test_a_training_step_follows_the_gradient_of_the_sum():
    model, other = compiled(), compiled()
    model.fit(IMAGES, LABELS, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        prediction = other(IMAGES, training=True)
        loss = other.compute_loss(IMAGES, torch.tensor(LABELS), prediction)
        gradients = torch.autograd.grad(loss, [weight.value for weight in other.trainable_weights])
        with torch.no_grad():
            other.optimizer.apply(gradients, other.trainable_weights)
    assert len(other.trainable_weights) == len(model.trainable_weights) > 8
    for one, two in zip(model.weights, other.weights, strict=True):
        torch.testing.assert_close(one.value, two.value)


def test_sample_weights_and_class_weights_count():
    model = compiled()
    weights = np.array([0.0, 2.0, 1.0, 0.5, 0.0, 3.0], "float32")
    margin, reconstruction = parts(model)
    expected = ((margin + 0.01 * reconstruction) * torch.tensor(weights)).mean().item()
    given = model.evaluate(IMAGES, LABELS, sample_weight=weights, return_dict=True, verbose=0)
    assert given["loss"] == pytest.approx(expected, rel=1e-5)
    frozen = compiled(optimizer=keras.optimizers.SGD(0.0))
    frozen.get_layer("stem").trainable = False
    classes = dict(enumerate(weights.tolist()))
    history = frozen.fit(IMAGES, LABELS, class_weight=classes, batch_size=6, verbose=0).history
    unweighted = compiled(optimizer=keras.optimizers.SGD(0.0)).fit(IMAGES, LABELS, batch_size=6, verbose=0).history
    assert history["reconstruction_loss"] != unweighted["reconstruction_loss"]


@pytest.mark.parametrize("labels", [LABELS[:, None], np.eye(10, dtype="float32")[:6]], ids=["column", "one-hot"])
def test_labels_in_other_forms(labels):
    spec_losses = compiled()
    expected = spec_losses.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    model = compiled()
    model.compile(optimizer="sgd", loss=model.make_losses())
    given = model.evaluate(IMAGES, labels, return_dict=True, verbose=0)
    assert given["reconstruction_loss"] == pytest.approx(expected["reconstruction_loss"])


def test_predict_does_not_know_of_it(monkeypatch):
    model = compiled(spec_with({"tapped": {"loss": "reconstruction", "capsules": "side", "image": "image"}}, SIDE))

    def forbidden(*args, **kwargs):
        raise AssertionError("computed in predict")

    for layer in [*model.side_losses.values(), model.get_layer("side")]:
        monkeypatch.setattr(layer, "call", forbidden)
    assert model.predict(IMAGES, verbose=0).shape == (6, 10)
    assert not vars(model(IMAGES))
    with pytest.raises(AssertionError, match="computed in predict"):
        model.evaluate(IMAGES, LABELS, verbose=0)


def test_a_batch_of_one():
    model = compiled()
    history = model.fit(IMAGES[:3], LABELS[:3], batch_size=1, verbose=0).history
    assert np.isfinite(history["reconstruction_loss"]).all()
    assert model.evaluate(IMAGES[:1], LABELS[:1], return_dict=True, verbose=0)["reconstruction_loss"] > 0


def test_several_outputs_say_whose_labels_are_meant():
    spec = spec_with(nodes={"flat": {"layer": "keras.Flatten", "inputs": "digits"}})
    spec["model"]["outputs"] = {"classes": "lengths", "a": "flat"}
    with pytest.raises(SpecError, match=r"say whose labels these are\. Allowed: labels/a, labels/classes"):
        check_spec(spec)
    spec["losses"]["reconstruction"]["labels"] = "labels/classes"
    model = compiled_on_a_map(spec)
    expected = model.evaluate(IMAGES, {"classes": LABELS}, return_dict=True, verbose=0)
    capsules = keras.Model(model.input, model.port("digits"))(IMAGES)
    loss = model.side_losses["reconstruction"](capsules=capsules, image=torch.tensor(IMAGES), labels=LABELS)
    assert expected["reconstruction_loss"] == pytest.approx(loss.mean().item(), rel=1e-5)
    assert load_spec(load_spec(spec).resolved) == load_spec(spec)


def compiled_on_a_map(spec):
    model = build_model(spec)
    model.compile(optimizer="sgd", loss=model.make_losses(), loss_weights=model.loss_weights)
    return model


def test_an_input_for_a_loss_alone():
    """The clean image, for a network that sees a noisy one."""
    spec = spec_with()
    del spec["data"]
    spec["model"]["inputs"] = {"image": [8, 8, 1], "clean": [8, 8, 1]}
    spec["model"]["nodes"]["digits"]["capsules"] = 10
    spec["losses"]["reconstruction"]["image"] = "clean"
    model = compiled(spec)
    data = {"image": IMAGES, "clean": IMAGES * 0}
    model.fit(data, LABELS, verbose=0)
    logs = model.evaluate(data, LABELS, return_dict=True, verbose=0)
    capsules = keras.Model(model.inputs[1], model.port("digits"))(IMAGES)
    loss = model.side_losses["reconstruction"](capsules=capsules, image=torch.zeros(6, 8, 8, 1), labels=LABELS)
    assert logs["reconstruction_loss"] == pytest.approx(loss.mean().item(), rel=1e-5)


def test_a_loss_of_the_whole_batch_with_weights_and_without_labels(registered, tmp_path):
    """What an optimal transport between two tensors needs: ports, weights with batch norm, one number."""

    @registered("test_distance")
    class Distance(SideLoss):
        """Mean squared distance after a dense layer and a batch norm.

        Args:
            units: Size of the layer.

        Call arguments:
            latent: Any tensor.
            target: Another.
        """

        def __init__(self, units: int = 3, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, latent_shape, target_shape):
            self.first = keras.layers.Dense(self.units, name="first")
            self.second = keras.layers.Dense(self.units, name="second")
            self.norm = keras.layers.BatchNormalization(name="norm")
            for layer, shape in ((self.first, latent_shape), (self.second, target_shape)):
                layer.build((None, int(np.prod(shape[1:]))))
            self.norm.build((None, self.units))

        def call(self, latent, target, training=None):
            latent, target = self.first(latent.flatten(1)), self.second(target.flatten(1))
            return (self.norm(latent, training=training) - self.norm(target, training=training)).square().mean()

    loss = {"loss": "test_distance", "latent": "stage/half", "target": "stage/input", "weight": 20}
    model = compiled(spec_with({"align": loss}), optimizer=keras.optimizers.Adam(0.01))
    align = model.side_losses["align"]
    moving = align.norm.moving_mean.numpy().copy()
    history = model.fit(IMAGES, LABELS, epochs=10, verbose=0).history
    assert history["align_loss"][-1] < history["align_loss"][0]
    assert (align.norm.moving_mean.numpy() != moving).any()
    moving = align.norm.moving_mean.numpy().copy()
    logs = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    np.testing.assert_array_equal(align.norm.moving_mean, moving)
    margin, reconstruction = parts(model)
    expected = margin.mean() + 0.01 * reconstruction.mean() + 20 * logs["align_loss"]
    assert logs["loss"] == pytest.approx(expected.item(), rel=1e-5)
    model.save(tmp_path / "model.keras")
    assert load_model(tmp_path / "model.keras").evaluate(IMAGES, LABELS, return_dict=True, verbose=0) == logs


def test_reconstructions_of_what_predict_gives_in_half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled()
        capsules = keras.Model(model.input, model.port("digits")).predict(IMAGES, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
    assert capsules.dtype.name == "bfloat16"
    loss = model.side_losses["reconstruction"]
    images = loss.reconstruct(capsules, LABELS)
    assert (images.dtype, images.shape) == (torch.float32, (6, 8, 8, 1))
    torch.testing.assert_close(images, loss.reconstruct(capsules.astype("float32"), LABELS))


def test_a_compiled_loss_that_needs_real_numbers():
    """Keras tries losses without data first, and then on ones."""

    def impatient(labels, scores):
        return scores.sum(-1) * labels.float().mean().item()

    model = build_model(SPEC)
    model.compile(optimizer="sgd", loss=impatient)
    history = model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), verbose=0).history
    assert history["reconstruction_loss"][0] > 0


@pytest.mark.parametrize("loss", [None, {}], ids=["none", "those of the spec"])
def test_a_side_loss_may_be_the_only_one(loss):
    model = build_model(without_output_loss())
    assert model.make_losses() == model.loss_weights == {}
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss)
    history = model.fit(IMAGES, LABELS, epochs=5, validation_data=(IMAGES, LABELS), verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"] == pytest.approx([0.01 * value for value in history["val_reconstruction_loss"]])


def test_overrides_and_variables_reach_side_losses():
    spec = spec_with()
    spec["vars"] = {"node": "digits", "factor": 2}
    spec["losses"]["reconstruction"].update(capsules="$node", weight="$(factor / 4)")
    read = load_spec(spec, ["losses.reconstruction.hidden=[3]"])
    loss = read.losses["reconstruction"]
    assert (loss.weight, loss.arguments, loss.references["capsules"]) == (0.5, {"hidden": [3]}, "digits")
    assert load_spec(read.resolved) == read


def test_a_run_shows_it_everywhere_and_it_falls(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # room for all that is shown
    small = [
        *(
            "data={dataset: digits, image_size: 16, augment: null}",
            "train.epochs=3",
            "train.optimizer.learning_rate=1e-2",
        ),
        *("vars.filters=8", "model.nodes.conv.kernel_size=3", "vars.types=2", "model.nodes.capsules.kernel_size=5"),
        *("losses.reconstruction.hidden=[32]", "losses.reconstruction.weight=0.005"),
    ]
    results = train(load_spec("capsnet_sabour", small), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("reconstruction_loss", "val_reconstruction_loss"):
        values = [float(row[name]) for row in rows]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.8 * values[0]
    assert capsys.readouterr().out.count(" reconstruction_loss ") == 3
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    assert {"reconstruction_loss/training", "reconstruction_loss/validation"} <= set(accumulator.Tags()["scalars"])
    assert np.isfinite(results["test_loss"])
