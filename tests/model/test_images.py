"""What images a model takes: bytes, floats from 0 to 1, none at all; and clones of models."""

import warnings

import keras
import numpy as np
import pytest

from encapkeras import SpecError, build_model, check_spec, load_spec
from encapkeras.errors import ArgumentError

SMALL = {
    "name": "small",
    "model": {
        "inputs": {"image": [8, 8, 1]},
        "nodes": {
            "capsules": {"layer": "primary_capsules", "inputs": "image", "types": 2, "dim": 4, "kernel_size": 3},
            "digits": {"layer": "dynamic_capsules", "inputs": "capsules", "capsules": 3, "dim": 4},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {
        "classes": {"loss": "margin"},
        "made": {"loss": "reconstruction", "capsules": "digits", "image": "image", "hidden": [4]},
    },
}
BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), "uint8")
IMAGES = BYTES.astype("float32") / 255
LABELS = np.arange(6) % 3


def compiled(spec=SMALL):
    model = build_model(spec)
    model.compile("sgd", model.make_losses(), metrics=["accuracy"])
    return model


def test_bytes_are_images_from_0_to_1():
    model = compiled()
    np.testing.assert_array_equal(model.predict(BYTES, verbose=0), model.predict(IMAGES, verbose=0))
    assert (model(BYTES) == model(IMAGES)).all()
    expected = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert model.evaluate(BYTES, LABELS, return_dict=True, verbose=0) == expected
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    for each, images in ((model, BYTES), (twin, IMAGES)):
        each.compile("sgd", each.make_losses())
        each.fit(images, LABELS, verbose=0, shuffle=False)
    for one, two in zip(model.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("images", [BYTES.astype("float32"), BYTES.astype("int64"), -255 * IMAGES])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "__call__"])
def test_numbers_far_beyond_the_range_are_warned_about_once(images, method):
    model = compiled()
    model(keras.ops.convert_to_tensor(IMAGES))
    options = {} if method == "__call__" else {"verbose": 0, "batch_size": 2}
    labels = [LABELS] if method in ("fit", "evaluate") else []
    if method == "__call__":
        model = compiled()
    with pytest.warns(
        UserWarning, match=r"takes images with values from 0 to 1; those of 'image' range from"
    ) as warned:
        getattr(model, method)(images, *labels, **options)
    assert sum(warning.category is UserWarning for warning in warned) == 1
    getattr(model, method)(images, *labels, **options)


def test_bytes_of_0_and_1_are_warned_about_once():
    model, images = compiled(), BYTES // 128
    with pytest.warns(
        UserWarning, match=r"those of 'image' are bytes \(uint8\) of only 0 and 1.* Multiply them by 255"
    ):
        model.predict(images, verbose=0)
    model.predict(images, verbose=0)
    for others in (BYTES, BYTES * 0, BYTES // 64, images.astype(bool), images * 1.0):
        compiled().predict(others, verbose=0)


def test_networks_that_scale_themselves_and_inputs_that_are_no_images_take_any_numbers():
    scaled = {"layer": "keras.Rescaling", "inputs": "image", "scale": 1 / 255}
    nodes = {**SMALL["model"]["nodes"], "scaled": scaled}
    nodes["capsules"] = {**nodes["capsules"], "inputs": "scaled"}
    model = build_model({**SMALL, "losses": {}, "model": {**SMALL["model"], "nodes": nodes}})
    np.testing.assert_array_equal(model.predict(BYTES, verbose=0), model.predict(BYTES.astype("float32"), verbose=0))
    dense = {"d": {"layer": "keras.Dense", "inputs": "x", "units": 2}}
    vectors = build_model({"name": "v", "model": {"inputs": {"x": [4]}, "nodes": dense, "outputs": {"y": "d"}}})
    counts = np.full((2, 4), 9, "uint8")
    np.testing.assert_array_equal(vectors.predict(counts, verbose=0), vectors.predict(counts * 1.0, verbose=0))


def test_none_can_be_predicted_but_not_learned():
    model = compiled()
    assert model.predict(IMAGES[:0], verbose=0).shape == (0, 3)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ArgumentError, match="was given 0 images"):
            method(IMAGES[:0], LABELS[:0])


def test_clones_keep_side_losses_class_names_and_precision():
    model = build_model("encapnet_ot_digits", ["train.precision=bfloat16"])
    clone = keras.models.clone_model(model)
    assert [weight.path for weight in clone.weights] == [weight.path for weight in model.weights]
    assert (clone.class_names, clone.precision) == (model.class_names, "bfloat16")
    inside = keras.models.clone_model(keras.Sequential([keras.Input((32, 32, 1)), model]), recursive=True)
    assert type(inside.layers[0]) is type(model)


@pytest.mark.parametrize(
    "given",
    [
        {"clone_function": lambda layer: layer},
        {"call_function": lambda layer, *args, **kwargs: layer(*args, **kwargs)},
        {"input_tensors": keras.Input((8, 8, 1))},
    ],
)
def test_clones_with_parts_of_ones_own_are_refused(given):
    model = build_model(SMALL)
    with pytest.raises(ArgumentError, match=r"would lose the side losses.*build_model\(model.spec, overrides\)"):
        keras.models.clone_model(model, **given)


def test_a_spec_as_a_map_may_have_numbers_of_numpy_and_paths(tmp_path):
    data = {"dataset": "npz", "path": tmp_path / "none.npz"}
    spec = {
        **SMALL,
        "vars": {"classes": np.int64(3)},
        "model": {**SMALL["model"], "inputs": {"image": np.array([8, 8, 1])}},
    }
    assert load_spec(spec).resolved["model"]["inputs"]["image"] == [8, 8, 1]
    with pytest.raises(SpecError, match=r"none\.npz"):
        load_spec({**SMALL, "data": data})


def test_images_that_are_scaled_otherwise_are_a_choice():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled().predict(2 * IMAGES - 1, verbose=0)


def test_warnings_come_at_the_first_batch_alone():
    model = compiled()
    late = np.concatenate([IMAGES[:3], 255 * IMAGES[3:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict(late, batch_size=3, verbose=0)


@pytest.mark.parametrize(("between", "warnings_given"), [([], 1), ([6, 6, 6, 4], 0)])
def test_volumes_of_keras_layers_are_warned_about_where_they_would_be_capsules(between, warnings_given):
    nodes = {
        "volume": {"layer": "keras.Conv3D", "inputs": "image", "filters": 4, "kernel_size": 3},
        "made": {"layer": "keras.Reshape", "inputs": "volume", "target_shape": between},
        "digits": {"layer": "dynamic_capsules", "inputs": "made", "capsules": 3, "dim": 4},
    }
    if not between:
        nodes = {**nodes, "digits": {**nodes["digits"], "inputs": "volume"}}
        del nodes["made"]
    spec = {"model": {"inputs": {"image": [8, 8, 8, 2]}, "nodes": nodes, "outputs": {"out": "digits"}}}
    found = [warning.message for warning in check_spec(spec).warnings]
    assert len(found) == warnings_given
    assert all("'dynamic_capsules' takes this volume" in message for message in found)
