"""Networks with optimal-transport units: capsules and ResNets, trained, saved, in half precision, diverged."""

import keras
import numpy as np
import pytest
import torch
from support.side_loss_spec import IMAGES, LABELS, compiled, spec_with

from encapkeras import build_model, load_model
from encapkeras.errors import TrainingError
from encapkeras.summary.node_table import node_table, parameters
from encapkeras.training.callbacks import NonFiniteStop

CAPSULES = {"loss": "optimal_transport", "latent": "stage/half", "target": "stem", "weight": 20}


def aligned(optimizer="sgd", **arguments):
    return compiled(spec_with({"align": {**CAPSULES, **arguments}}), optimizer)


def margin_loss(model, lengths):
    return model.make_losses()["classes"](torch.tensor(LABELS), lengths).item()


def test_the_loss_falls_and_counts_with_its_weight():
    model = aligned(keras.optimizers.Adam(0.01))
    lengths = model(IMAGES, training=True)
    first = {name: value[0] for name, value in model.fit(IMAGES, LABELS, verbose=0).history.items()}
    expected = margin_loss(model, lengths) + 20 * first["align_loss"] + 0.01 * first["reconstruction_loss"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    later = model.fit(IMAGES, LABELS, epochs=10, verbose=0).history
    assert later["align_loss"][-1] < first["align_loss"]


def test_it_counts_in_training_only(monkeypatch):
    model = aligned()
    history = model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), epochs=2, verbose=0).history
    assert "align_loss" in history
    assert not any(name.startswith("val_align") for name in history)
    assert "val_reconstruction_loss" in history
    monkeypatch.setattr(model.side_losses["align"], "call", None)
    logs = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert set(logs) == {"accuracy", "loss", "reconstruction_loss"}
    expected = margin_loss(model, torch.tensor(model.predict(IMAGES, verbose=0))) + 0.01 * logs["reconstruction_loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][-1] == pytest.approx(logs["loss"], rel=1e-5)


def test_the_numbers_of_evaluate_have_the_first_names():
    reconstruction = spec_with({})["losses"]["reconstruction"]
    spec = spec_with({})
    spec["losses"] = {"classes": spec["losses"]["classes"], "align": CAPSULES, "reconstruction": reconstruction}
    model = compiled(spec)
    by_name = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    named = dict(zip(model.metrics_names, model.evaluate(IMAGES, LABELS, verbose=0), strict=False))
    assert named["reconstruction_loss"] == by_name["reconstruction_loss"]
    assert not any(name.startswith("align") for name in named)


def test_both_tensors_get_gradients_and_all_weights_learn():
    model = aligned()
    before = {weight.path: weight.numpy().copy() for weight in model.side_losses["align"].trainable_weights}
    assert len(before) == 12
    prediction = model(IMAGES, training=True)
    model.compute_loss(IMAGES, torch.tensor(LABELS), prediction).backward()
    unit = model.side_losses["align"]
    reached = [weight.name for weight in unit.trainable_weights if weight.value.grad.abs().sum() > 1e-9]
    # Biases before a batch norm have no effect, and so no gradient.
    assert {"generator_kernel", "critic_1_kernel", "critic_2_kernel", "generator_norm_scale"} <= set(reached)


def test_predict_does_not_know_of_it(monkeypatch):
    model = aligned()

    def forbidden(*args, **kwargs):
        raise AssertionError("computed in predict")

    monkeypatch.setattr(model.side_losses["align"], "call", forbidden)
    assert model.predict(IMAGES, verbose=0).shape == (6, 10)
    with pytest.raises(AssertionError, match="computed in predict"):
        model.fit(IMAGES, LABELS, verbose=0)


def test_the_unit_is_saved_with_its_weights_and_statistics(tmp_path):
    model = aligned("adam", critic="adversarial", bias_initializer="ones")
    model.fit(IMAGES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    unit, again = model.side_losses["align"], loaded.side_losses["align"]
    assert again.get_config() == unit.get_config()
    assert len(unit.weights) == 18
    for one, other in zip(unit.weights, again.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(one, other)
    logs = [m.evaluate(IMAGES, LABELS, return_dict=True, verbose=0) for m in (model, loaded)]
    assert logs[0] == logs[1]
    histories = [m.fit(IMAGES, LABELS, shuffle=False, verbose=0).history for m in (model, loaded)]
    assert histories[0] == histories[1]


def test_the_unit_is_listed_with_its_weights():
    model = build_model(spec_with({"align": CAPSULES}))
    row = node_table(model)[-1]
    assert (row.name, row.layer, row.inputs) == ("losses.align", "optimal_transport", ("stage/half", "stem"))
    generator, critic = 8 * 4 * 9 + 3 * 4, (4 * 9 + 3) + (9 + 3)
    assert (row.weights, row.fixed_weights) == (generator + critic, 2 * (4 + 1 + 1))
    assert parameters(model) == sum(weight.numpy().size for weight in model.trainable_weights)


def test_half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = aligned()
        history = model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), verbose=0).history
    finally:
        keras.config.set_dtype_policy(before)
    assert all(np.isfinite(values).all() for values in history.values())
    assert {weight.dtype for weight in model.side_losses["align"].weights} == {"float32"}


def test_the_taps_of_a_resnet():
    overrides = ["data={dataset: digits, image_size: 16, augment: null}"]
    model = build_model("resnet14_ot", overrides)
    assert list(model.side_losses) == ["align4", "align6"]
    model.compile(optimizer="adam", loss=model.make_losses(), loss_weights=model.loss_weights)
    images = np.random.default_rng(0).uniform(size=(8, 16, 16, 1)).astype("float32")
    history = model.fit(images, np.arange(8), batch_size=4, verbose=0).history
    assert np.isfinite(history["align4_loss"] + history["align6_mean_cost"]).all()


def test_the_layer_that_diverged_is_named_and_not_the_unit():
    model = aligned()
    model.get_layer("stage").weights[0].assign(np.full(model.get_layer("stage").weights[0].shape, np.nan))
    with pytest.raises(TrainingError, match=r"weight 'stage/.*' was already not finite before this step"):
        model.fit(IMAGES, LABELS, callbacks=[NonFiniteStop()], verbose=0)


def test_a_batch_of_one():
    history = aligned().fit(IMAGES[:2], LABELS[:2], batch_size=1, verbose=0).history
    assert history["align_loss"] == [0]
    assert np.isfinite(history["loss"]).all()
