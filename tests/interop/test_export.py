"""Exported networks give the same outputs elsewhere."""

import functools
import json
import subprocess
import sys

import keras
import numpy as np
import onnxruntime
import pytest
import torch

from encapkeras import build_model, load_model
from encapkeras.errors import ArgumentError, ExportError, RunFolderError
from encapkeras.interop import export_model

SPECS = {
    "encapnet_digits": ["vars.types=4", "vars.sub_layers=2", "vars.kind=approximate"],
    "encapnet_ot_digits": ["vars.types=4", "vars.sub_layers=1"],
    "capsnet_dynamic_digits": [],
    "capsnet_em_digits": ["vars.types=4", "vars.filters=16"],
    "few nodes": [],
    "window_em_capsules": [],
    "variational_bayes_capsules": [],
}
FEW_NODES = {  # what ONNX takes long for is their number
    "spec": "encapkeras/1",
    "name": "few_nodes",
    "data": {"dataset": "digits"},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 16, "strides": 4, "moving_average": "warm"},
            "capsules": {"layer": "primary_capsules", "inputs": "stem", "types": 4, "dim": 4, "kernel_size": 3},
            "digits": {"layer": "dynamic_capsules", "inputs": "capsules", "capsules": "$classes", "dim": 4},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {"classes": {"loss": "margin"}},
}


def gaussians(layer, **options):
    """A spec of two layers whose parents are Gaussians of the votes, behind a batch norm."""
    common = {"layer": layer, "dim": 4, "iterations": 2, **options}
    classes = {"capsules": "$classes", "matrices": "type", "coordinates": "child"}
    return {
        **FEW_NODES,
        "model": {
            "nodes": {
                "stem": FEW_NODES["model"]["nodes"]["stem"],
                "poses": {**FEW_NODES["model"]["nodes"]["capsules"], "types": 3, "squash": False},
                "normed": {"layer": "batch_norm", "inputs": "poses", "per": "type"},
                "chances": {"layer": "conv_bn_relu", "inputs": "stem", "filters": 3, "strides": 2, "padding": 0},
                "hidden": {**common, "inputs": ["normed", "chances"], "capsules": 3, "kernel_size": 2},
                "digits": {**common, "inputs": ["hidden", "hidden/activations"], **classes},
            },
            "outputs": {"classes": "digits/activations"},
        },
    }


def spec_of(name):
    """What `build_model` takes."""
    return FEW_NODES if name == "few nodes" else gaussians(name) if name.endswith("_capsules") else name


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SPECS if name != "capsnet_em_digits"]


@pytest.mark.parametrize(
    "name", ["few nodes", "encapnet_digits", pytest.param("capsnet_em_digits", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_keras_own_export_to_onnx_takes_any_number_of_images(name, tmp_path):
    model = build_model(spec_of(name), SPECS[name])
    model(torch.rand(2, *model.input_shape[1:]))  # Keras asks for one call
    model.export(str(tmp_path / "network.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for count in (1, 3):
        images = np.random.default_rng(0).random((count, *model.input_shape[1:]), "float32")
        (scores,) = session.run(None, {session.get_inputs()[0].name: images})
        np.testing.assert_allclose(scores, model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["few nodes", "capsnet_em_digits"])
def test_networks_can_be_traced_by_torchscript(name):
    model = build_model(spec_of(name), SPECS[name])
    images = torch.rand(5, *model.input_shape[1:])
    with torch.no_grad():
        traced = torch.jit.trace(model, (images[:2],), check_trace=False)
        assert torch.allclose(traced(images), model(images), atol=1e-6)


LOADED_ALONE = """
import json, sys
import numpy as np
import torch

extra = {"class_names": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
assert not {"keras", "encapkeras"} & set(sys.modules)
for size in (1, 7):
    np.save(f"{sys.argv[1]}.{size}.npy", network(torch.from_numpy(np.load(sys.argv[2]))[:size]).numpy(force=True))
print(extra["class_names"])
"""


@functools.cache
def network(name):
    """A network with outputs of usable size: an untrained EncapNet's are all but 0."""
    from encapkeras import load_spec

    keras.utils.set_random_seed(0)
    model = build_model(load_spec(spec_of(name), SPECS[name]))
    model.compile(keras.optimizers.Adam(1e-2), loss=model.make_losses(), loss_weights=model.loss_weights)
    images = np.random.default_rng(0).uniform(size=(16, *model.input_shape[1:])).astype("float32")
    model.fit(images, np.arange(16) % 10, epochs=30, batch_size=16, verbose=0)
    expected = model.predict(images[:7], verbose=0)
    assert np.abs(expected).max() > 1e-2
    return model, images[:7], expected


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["capsnet_em_digits", *SLOW])
def test_torch_gives_the_same_outputs_for_any_number_of_images(name, tmp_path):
    model, images, expected = network(name)

    export_model(model, tmp_path / "network.pt2", "torch")
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", LOADED_ALONE, str(tmp_path / "network.pt2"), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(model.class_names)
    for size in (1, 7):
        found = np.load(tmp_path / f"network.pt2.{size}.npy")
        np.testing.assert_allclose(found, expected[:size], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)  # the model is as it was


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "few nodes" else pytest.mark.slow) for name in SPECS]
)
def test_onnx_gives_the_same_outputs_for_any_number_of_images(name, tmp_path):
    model, images, expected = network(name)
    export_model(model, tmp_path / "network.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert [(each.name, each.shape[0]) for each in session.get_inputs()] == [("images", "batch")]
    assert [(each.name, each.shape[0]) for each in session.get_outputs()] == [("scores", "batch")]
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(model.class_names)
    for size in (1, 7):
        [found] = session.run(["scores"], {"images": images[:size]})
        np.testing.assert_allclose(found, expected[:size], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)  # the model is as it was


def test_onnx_keeps_the_smallest_epsilon(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.log(inputs + 1e-9))
    numbers = 1e-10 * np.arange(8, dtype="float32").reshape(2, 4)
    export_model(model, tmp_path / "network.onnx", "onnx")
    [found] = onnxruntime.InferenceSession(tmp_path / "network.onnx").run(None, {"images": numbers})
    np.testing.assert_allclose(found, model.predict(numbers, verbose=0), rtol=0, atol=1e-5)


def test_keras_files_are_read_by_load_model(tmp_path):
    model = build_model("capsnet_dynamic_digits")
    export_model(model, tmp_path / "network.keras", "keras")
    loaded = load_model(tmp_path / "network.keras")
    images = np.ones((2, *model.input_shape[1:]), "float32")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert loaded.class_names == model.class_names


class Bends(keras.layers.Layer):
    def call(self, inputs):
        return inputs if inputs.sum().item() > 0 else -inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Roots(keras.layers.Layer):
    def call(self, inputs):
        return torch.linalg.cholesky(inputs @ inputs.mT + torch.eye(4))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_what_onnx_lacks_is_told_and_leaves_nothing(tmp_path):
    matrix = keras.Input((4, 4))
    with pytest.raises(ExportError, match=r"as ONNX: ONNX has no aten.linalg_cholesky.default\. It can be"):
        export_model(keras.Model(matrix, Roots()(matrix)), tmp_path / "network.onnx", "onnx")
    full = build_model(gaussians("variational_bayes_capsules", covariance="full"))
    with pytest.raises(ExportError, match="layer 'hidden' cannot be written as ONNX: covariance full needs a Cholesky"):
        export_model(full, tmp_path / "network.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    image = keras.Input((4,))
    bends = keras.Model(image, Bends()(image))
    with pytest.raises(ExportError, match="cannot be traced"):
        export_model(bends, tmp_path / "network.pt2", "torch")
    two = keras.Model([image, keras.Input((4,))], image)
    with pytest.raises(ArgumentError, match="has 2 inputs"):
        export_model(two, tmp_path / "network.onnx", "onnx")
    with pytest.raises(ArgumentError, match="received 'caffe'"):
        export_model(bends, tmp_path / "network", "caffe")
    with pytest.raises(RunFolderError, match="could not be written"):
        export_model(keras.Model(image, image), tmp_path / "no" / "network.pt2", "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx and onnxscript must be installed: pip install 'encapkeras\[onnx\]'"):
        export_model(bends, tmp_path / "network.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_recurrent_layers_are_exported_step_by_step(tmp_path):
    sequence = keras.Input((6, 4))
    hidden = keras.layers.GRU(3, return_sequences=True)(keras.layers.Masking()(sequence))
    layer = keras.layers.LSTM(5)
    model = keras.Model(sequence, layer(hidden))
    steps = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    steps[1, 4:] = 0
    expected = model.predict(steps, verbose=0)
    export_model(model, tmp_path / "network.pt2", "torch")
    found = torch.export.load(tmp_path / "network.pt2").module()(torch.from_numpy(steps))
    np.testing.assert_allclose(found.numpy(force=True), expected, rtol=0, atol=1e-6)
    assert not layer.unroll


def test_a_masked_sequence_backwards_cannot_be_traced(tmp_path):
    sequence = keras.Input((6, 4))
    model = keras.Model(sequence, keras.layers.GRU(3, go_backwards=True, name="x")(keras.layers.Masking()(sequence)))
    with pytest.raises(ExportError, match="with a mask backwards step by step, as layer 'x' does"):
        export_model(model, tmp_path / "network.pt2", "torch")


def test_sequences_of_unknown_length_cannot_be_exported(tmp_path):
    sequence = keras.Input((None, 4))
    model = keras.Model(sequence, keras.layers.GRU(3)(sequence))
    with pytest.raises(ArgumentError, match=r"takes inputs of shape \(None, None, 4\); only models .* known size"):
        export_model(model, tmp_path / "network.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_a_network_on_a_gpu_is_exported(tmp_path):
    model, images, expected = network("capsnet_em_digits")
    export_model(model, tmp_path / "network.pt2", "torch")
    found = torch.export.load(tmp_path / "network.pt2").module()(torch.from_numpy(images).cuda())
    np.testing.assert_allclose(found.numpy(force=True), expected, rtol=0, atol=1e-5)
