"""Nodes, references, outputs, depth: what specs may and may not connect."""

import os

import keras
import numpy as np
import pytest
import yaml

from encapkeras import SpecError, build_model, check_spec, load_model, load_spec
from encapkeras.errors import ArgumentError
from encapkeras.spec.keras_layers import FIT_FOR_CAPSULES, keras_layer_names
from encapkeras.spec.layer_kinds import layer_kind
from encapkeras.spec.nodes import DEEPEST_CHAIN


def spec_of(nodes, inputs=None, outputs=None):
    outputs = outputs or {"out": list(nodes)[-1]}
    return {"model": {"inputs": inputs or {"image": [8, 8, 4]}, "nodes": nodes, "outputs": outputs}}


def problems(data):
    with pytest.raises(SpecError) as caught:
        check_spec(data)
    return caught.value.problems


def relu(inputs, **more):
    return {"layer": "keras.ReLU", "inputs": inputs, **more}


def chain(length):
    nodes = {"n0": {"layer": "keras.Dense", "inputs": "image", "units": 4}}
    nodes.update({f"n{i}": relu(f"n{i - 1}") for i in range(1, length)})
    return spec_of(nodes, inputs={"image": [4]})


def test_the_order_of_writing_is_free():
    spec = load_spec(
        spec_of({"last": relu("middle"), "middle": relu("first"), "first": relu("image")}, outputs={"o": "last"})
    )
    assert [node.name for node in spec.nodes] == ["first", "middle", "last"]
    assert list(spec.resolved["model"]["nodes"]) == ["last", "middle", "first"]


def test_500_nodes_in_a_row_build_and_train():
    model = build_model(chain(500))
    model.compile(loss="mse", optimizer="sgd")
    model.fit(np.zeros((4, 4)), np.zeros((4, 4)), verbose=0)
    assert model(np.ones((3, 4))).shape == (3, 4)


@pytest.mark.slow
def test_the_deepest_chain_builds_trains_and_loads(tmp_path):
    model = build_model(chain(DEEPEST_CHAIN))
    model.compile(loss="mse", optimizer="sgd")
    model.fit(np.ones((4, 4)), np.zeros((4, 4)), verbose=0)
    model.save(tmp_path / "deep.keras")
    loaded = load_model(tmp_path / "deep.keras")
    np.testing.assert_array_equal(loaded.predict(np.ones((3, 4)), verbose=0), model.predict(np.ones((3, 4)), verbose=0))


def test_a_deeper_chain_is_refused_with_the_limit():
    (problem,) = problems(chain(DEEPEST_CHAIN + 200))
    assert problem.path == f"model.nodes.n{DEEPEST_CHAIN}"
    assert str(DEEPEST_CHAIN) in problem.message


def test_a_wide_spec_of_2000_nodes_is_checked_whole():
    nodes = {f"n{i}": relu("image") for i in range(2000)}
    nodes["n1700"] = relu("image", expect=[1, 2, 3])
    (problem,) = problems(spec_of(nodes))
    assert problem.path == "model.nodes.n1700.expect"


def test_an_unused_node_is_checked_but_no_part_of_the_model():
    nodes = {"used": relu("image"), "unused": {"layer": "keras.Dense", "inputs": "image", "units": 3}}
    model = build_model(spec_of(nodes, outputs={"o": "used"}))
    assert model.count_params() == 0
    assert model.port("unused").shape == (None, 8, 8, 3)
    nodes["unused"]["units"] = -3
    assert problems(spec_of(nodes, outputs={"o": "used"}))


def test_an_input_that_nothing_uses_is_a_mistake():
    (problem,) = problems(spec_of({"a": relu("image")}, inputs={"image": [2], "extra": [3]}))
    assert problem.path == "model.inputs.extra"


@pytest.mark.parametrize("name", ["labels", "a/b", "-a", "a b", "", "ä", "image"])
def test_names_that_nodes_cannot_have(name):
    assert len(problems(spec_of({name: relu("image"), "last": relu("image")}))) == 1


@pytest.mark.parametrize("name", ["a.b", "a-b", "3", "_x", "CON", "a:".rstrip(":")])
def test_names_that_nodes_can_have(name):
    nodes = {name: {"layer": "conv_bn_relu", "inputs": "image", "filters": 2}}
    assert build_model(spec_of(nodes)).port(name).shape == (None, 8, 8, 2)


@pytest.mark.parametrize("section", ["inputs", "outputs"])
@pytest.mark.parametrize("name", ["labels", "a/b"])
def test_names_that_inputs_and_outputs_cannot_have(section, name):
    data = spec_of({"a": relu("image")})
    data["model"][section] = {name: [3] if section == "inputs" else "a"}
    assert any(problem.path == f"model.{section}.{name}" for problem in problems(data))


@pytest.mark.parametrize("name", keras_layer_names())
def test_every_layer_of_keras_is_allowed_or_refused_on_capsules(name):
    nodes = {"capsules": {"layer": "image_to_capsules", "inputs": "image", "types": 2}}
    nodes["layer"] = {"layer": name, "inputs": "capsules", **required_arguments(name)}
    if name.removeprefix("keras.") in {"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"}:
        nodes["layer"]["inputs"] = ["capsules", "capsules"]
    if name.removeprefix("keras.") in FIT_FOR_CAPSULES:
        check_spec(spec_of(nodes))
    else:
        (problem,) = problems(spec_of(nodes))
        assert "capsules_to_image" in problem.message


def required_arguments(name):
    """A value for each argument that the layer needs."""
    known = {"rate": 0.1, "stddev": 0.1, "scale": 2.0, "activation": "relu", "function": "relu"}
    known |= {"dims": [4, 1, 2, 3], "target_shape": [256]}
    return {problem.path[0]: known.get(problem.path[0], 3) for problem in layer_kind(name).arguments.problems({})}


@pytest.mark.parametrize("trainable", [True, False])
def test_layers_that_know_nothing_of_trainable_can_be_used(trainable):
    dropout = {"layer": "keras.SpatialDropout2D", "inputs": "image", "rate": 0.1, "trainable": trainable}
    assert check_spec(spec_of({"dropped": dropout}))


def test_a_volume_is_not_taken_for_capsules():
    nodes = {"c": {"layer": "keras.Conv3D", "inputs": "image", "filters": 2, "kernel_size": 3}}
    assert check_spec(spec_of(nodes, inputs={"image": [8, 8, 8, 1]}))


def test_capsules_pass_through_the_layers_that_fit():
    nodes = {
        "capsules": {"layer": "image_to_capsules", "inputs": "image", "types": 2},
        "dropped": {"layer": "keras.Dropout", "inputs": "capsules", "rate": 0.5},
        "dense": {"layer": "keras.Dense", "inputs": "dropped", "units": 3},
    }
    (problem,) = problems(spec_of(nodes))
    assert "capsules_to_image" in problem.message


def test_layers_that_need_several_tensors_get_them_one_by_one():
    attention = {"layer": "keras.MultiHeadAttention", "inputs": ["flat", "flat"], "num_heads": 2, "key_dim": 3}
    nodes = {"flat": {"layer": "keras.Reshape", "inputs": "image", "target_shape": [64, 4]}, "attention": attention}
    assert build_model(spec_of(nodes)).output_shape == (None, 64, 4)


def test_sizes_may_be_unknown():
    nodes = {
        "c": {"layer": "keras.Conv2D", "inputs": "image", "filters": 2, "kernel_size": 1, "expect": [None, None, 2]}
    }
    spec = load_spec(spec_of(nodes, inputs={"image": [None, None, 3]}))
    assert load_spec(spec.resolved) == spec
    assert check_spec(spec) is not None


def test_checking_makes_no_weights():
    nodes = {"huge": {"layer": "keras.Dense", "inputs": "image", "units": 10**9}}
    assert check_spec(spec_of(nodes, inputs={"image": [10**6]}))


def test_defaults_fill_in_and_nodes_overrule_them():
    data = spec_of(
        {
            "a": {"layer": "keras.Dense", "inputs": "image"},
            "b": {"layer": "keras.Dense", "inputs": "image", "units": 3},
            "sum": {"layer": "keras.Concatenate", "inputs": ["a", "b"]},
        }
    )
    data["model"]["defaults"] = {"keras.Dense": {"units": 2, "use_bias": False}, "conv_bn_relu": {"filters": 3}}
    nodes = load_spec(data).resolved["model"]["nodes"]
    assert nodes["a"] == {"layer": "keras.Dense", "inputs": "image", "units": 2, "use_bias": False}
    assert nodes["b"]["units"] == 3


def test_a_users_own_keys_are_left_alone():
    data = {**spec_of({"a": relu("image", **{"x-why": "$nothing"})}), "x-notes": {"cost": "$5", "x": None}}
    spec = check_spec(data)
    assert spec.resolved["x-notes"] == {"cost": "$5", "x": None}
    assert load_spec(spec.resolved) == spec


def test_a_missing_file_of_the_users_data_is_a_mistake_of_the_spec(tmp_path):
    data = spec_of({"a": relu("image")})
    data["data"] = {"dataset": "npz", "path": str(tmp_path / "none.npz")}
    (problem,) = problems(data)
    assert problem.path == "data.path"


def test_kerass_own_image_format_does_not_change_a_network():
    keras.config.set_image_data_format("channels_first")
    try:
        model = build_model(spec_of({"pooled": {"layer": "keras.GlobalAveragePooling2D", "inputs": "image"}}))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.output_shape == (None, 4)


DEFAULT_INPUT = {"nodes": {"flat": {"layer": "keras.Flatten", "inputs": "image"}}, "outputs": {"out": "flat"}}


@pytest.mark.parametrize(
    ("spec", "place", "text"),
    [
        ({"vars": {"height": 0, "width": 4, "channels": 1}}, "vars.height", "must be greater than or equal to 1"),
        ({"vars": {"height": 4, "width": "abc", "channels": 1}}, "vars.width", "must be an integer; received 'abc'"),
        ({"data": {"dataset": "digits", "image_size": 10**23}}, "data.image_size", "must be less than or equal to"),
    ],
)
def test_a_default_input_of_an_impossible_size_is_a_mistake(spec, place, text):
    (problem,) = problems({**spec, "model": DEFAULT_INPUT})
    assert problem.path == place
    assert text in problem.message


@pytest.fixture
def pictures(tmp_path):
    """A folder with a spec of `pictures.npz`, and a folder below it."""
    rows = np.arange(20)
    images, labels = np.zeros((20, 8, 8, 1), "uint8"), rows % 2
    parts = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "pictures.npz", **parts)
    (tmp_path / "below").mkdir()
    for file, path in (("mine.yaml", "pictures.npz"), ("below/more.yaml", "../pictures.npz")):
        spec = {"model": DEFAULT_INPUT, "data": {"dataset": "npz", "path": path, "root": "."}}
        (tmp_path / file).write_text(yaml.safe_dump(spec))
    (tmp_path / "heir.yaml").write_text("extends: below/more.yaml\n")
    return tmp_path


@pytest.mark.parametrize("spec", ["mine.yaml", "below/more.yaml", "heir.yaml"])
@pytest.mark.parametrize("folder", [".", "below"])
def test_paths_start_at_the_file_that_wrote_them(spec, folder, pictures, monkeypatch):
    monkeypatch.chdir(pictures / folder)
    given = os.path.relpath(pictures / spec)
    assert check_spec(given).resolved["data"]["path"] == str(pictures / "pictures.npz")
    assert check_spec(pictures / spec).resolved["data"]["path"] == str(pictures / "pictures.npz")


def test_paths_without_a_file_start_at_the_current_folder(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    plain = {"model": DEFAULT_INPUT, "data": {"dataset": "npz", "path": "pictures.npz"}}
    assert check_spec(plain).data.path == str(pictures / "pictures.npz")
    monkeypatch.chdir(pictures / "below")
    spec = check_spec(pictures / "mine.yaml", ["data.path=../pictures.npz"])
    assert (spec.data.path, spec.data.root) == (str(pictures / "pictures.npz"), str(pictures))


@pytest.mark.parametrize("layer", ["keras.ReLU", "image_to_capsules", "keras.Flatten"])
def test_a_list_of_one_input_is_that_input(layer):
    node = {"layer": layer, "inputs": ["image"], **({"types": 2} if layer == "image_to_capsules" else {})}
    alone = {**node, "inputs": "image"}
    assert build_model(spec_of({"a": node})).output_shape == build_model(spec_of({"a": alone})).output_shape


@pytest.mark.parametrize("source", [3, None, ["quickstart"], b"quickstart"])
@pytest.mark.parametrize("read", [build_model, check_spec, load_spec])
def test_what_is_no_source_of_a_spec_is_refused(read, source):
    with pytest.raises(ArgumentError, match="a spec is a file, the name of a bundled spec"):
        read(source)


@pytest.mark.parametrize("read", [build_model, check_spec, load_spec])
def test_overrides_are_a_list(read):
    with pytest.raises(ArgumentError, match=r"overrides must be a list of texts; write \['train.epochs=3'\]"):
        read("quickstart", "train.epochs=3")


@pytest.mark.parametrize(
    "section",
    [
        {"data": {"dataset": "digits", "augment": {"crop": True, "resise": 34}}},
        {"train": {"epochs": 3, "schedule": {"kind": "cosine", "warmup_epoch": 9}}},
        {"data": {"dataset": "npz", "paht": "a.npz"}},
    ],
)
def test_a_misspelt_setting_is_one_mistake(section):
    data = {**spec_of({"a": relu("image")}, inputs={"image": [8, 8, 1]}), **section}
    (problem,) = problems(data)
    assert ". Did you mean" in problem.message


@pytest.mark.parametrize("loss", [{"loss": 3}, {"weight": 2.0}, {"loss": ["margin"]}])
def test_a_loss_that_is_not_text_or_missing_is_one_problem(loss):
    (problem,) = problems({**spec_of({"a": relu("image")}, outputs={"o": "a"}), "losses": {"o": loss}})
    assert problem.path.startswith("losses.o")


def test_a_shape_that_is_a_map():
    data = spec_of({"a": relu("image")}, inputs={"image": [8, 8, 4], "other": {"height": 8}})
    assert problems(data)[0].message.startswith("must be a list; received {'height': 8}")


def test_a_value_in_the_config_of_an_initializer_that_keras_does_not_expect():
    initializer = {"class_name": "variance_scaling", "config": {"distribution": ["normal"]}}
    layer = {"layer": "keras.Dense", "inputs": "image", "units": 3, "kernel_initializer": initializer}
    (problem,) = problems(spec_of({"a": layer}))
    assert "does not take this config: one of its values has a type that Keras does not take" in problem.message
