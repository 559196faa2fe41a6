"""The weights of side losses: counted, saved, loaded and copied with the model's."""

import copy

import keras
import numpy as np
import pytest
from support.side_loss_spec import IMAGES, LABELS, SIDE, SPEC, compiled, spec_with

from encapkeras import build_model, load_model
from encapkeras.summary.node_table import node_table, parameters, unused_nodes


def test_nodes_for_a_loss_alone_are_trained_saved_and_counted(tmp_path):
    spec = spec_with(nodes={**SIDE, "idle": {"layer": "keras.Flatten", "inputs": "stem"}})
    spec["losses"]["reconstruction"]["capsules"] = "side"
    model = compiled(spec)
    assert unused_nodes(model) == ["idle"]
    before = model.get_layer("side").kernel.numpy().copy()
    model.fit(IMAGES, LABELS, verbose=0)
    assert (model.get_layer("side").kernel.numpy() != before).any()
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.get_layer("side").kernel, model.get_layer("side").kernel)


def test_weights_are_counted_and_listed():
    model = build_model(SPEC)
    row = node_table(model)[-1]
    assert (row.name, row.layer, row.inputs) == (
        "losses.reconstruction",
        "reconstruction",
        ("digits", "image", "labels"),
    )
    assert (row.output_shape, row.weights) == ((), 40 * 8 + 8 + 8 * 64 + 64)
    assert parameters(model) == sum(weight.numpy().size for weight in model.trainable_weights)
    assert model.get_layer("reconstruction") is model.side_losses["reconstruction"]
    assert len({id(layer) for layer in model.layers}) == len(model.layers)


@pytest.mark.parametrize("load", [load_model, keras.saving.load_model], ids=["ours", "keras"])
def test_saved_models_go_on_where_they_were(load, tmp_path):
    model = build_model(SPEC)
    model.side_losses["reconstruction"].trainable = False
    model.compile(optimizer="adam", loss=model.make_losses())
    model.fit(IMAGES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert not loaded.side_losses["reconstruction"].trainable
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    logs = [m.evaluate(IMAGES, LABELS, return_dict=True, verbose=0) for m in (model, loaded)]
    assert logs[0] == logs[1]
    before = [weight.numpy() for weight in loaded.side_losses["reconstruction"].weights]
    loaded.fit(IMAGES, LABELS, verbose=0)
    for weight, value in zip(loaded.side_losses["reconstruction"].weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_copies_have_their_own_side_losses():
    model = compiled()
    fresh = type(model).from_config(model.get_config())
    cloned = keras.models.clone_model(model)
    copied = copy.deepcopy(model)
    for other in (fresh, cloned, copied):
        assert other.side_losses["reconstruction"] is not model.side_losses["reconstruction"]
        assert [weight.path for weight in other.weights] == [weight.path for weight in model.weights]
    expected = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert copied.evaluate(IMAGES, LABELS, return_dict=True, verbose=0) == expected
    network = keras.models.clone_model(keras.Model(model.inputs, model.outputs))  # what leads to the outputs
    assert network.predict(IMAGES, verbose=0).shape == (6, 10)


def test_weights_files_hold_them(tmp_path):
    model, other = compiled(), compiled()
    model.fit(IMAGES, LABELS, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    for one, two in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_dtype_policies(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled()
        logs = model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), verbose=0).history
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(before)
    assert all(np.isfinite(values).all() for values in logs.values())
    expected = "float64" if policy == "float64" else "float32"
    assert {weight.dtype for weight in load_model(tmp_path / "model.keras").side_losses["reconstruction"].weights} == {
        expected
    }


def test_a_model_inside_another_is_only_a_network():
    model = compiled()
    outer = keras.Sequential([keras.Input((8, 8, 1)), model])
    outer.compile(optimizer="sgd", loss=model.make_losses()["classes"])
    with pytest.warns(UserWarning, match="Gradients do not exist for variables .*reconstruction/kernel1"):
        assert set(outer.fit(IMAGES, LABELS, verbose=0).history) == {"loss"}
