"""Exported layers of routings, of capsules without one and of sequences give the same outputs elsewhere."""

from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import torch
from support.small_networks import INTERESTS, SMALL_NETWORKS

from encapkeras import build_model
from encapkeras.interop import export_model

pytestmark = pytest.mark.slow

PRIMARY = {"layer": "primary_capsules", "inputs": "image", "types": 3, "dim": 4, "kernel_size": 3}
NETWORKS = {
    "heinsen of 2019": {
        "logits": {"layer": "capsule_length", "inputs": "primary"},
        "hidden": {
            "layer": "heinsen_2019_capsules",
            "inputs": ["primary", "logits"],
            "capsules": 4,
            "dim": 4,
            "variable_inputs": True,
        },
        "classes": {
            "layer": "heinsen_2019_capsules",
            "inputs": ["hidden", "hidden/activations"],
            "capsules": 5,
            "dim": 4,
        },
        "scores": {"layer": "capsule_length", "inputs": "classes"},
    },
    "heinsen of 2022": {
        "hidden": {
            "layer": "heinsen_2022_capsules",
            "inputs": "primary",
            "capsules": 4,
            "dim": 6,
            "variable_inputs": True,
        },
        "classes": {"layer": "heinsen_2022_capsules", "inputs": "hidden", "capsules": 5, "dim": 1},
        "scores": {"layer": "keras.Flatten", "inputs": "classes"},
    },
    "DeepCaps": {
        "hidden": {"layer": "convolution_capsules", "inputs": "primary", "types": 3, "dim": 4, "strides": 2},
        "routed": {"layer": "convolution_dynamic_capsules", "inputs": "hidden", "types": 5, "dim": 3},
        "list": {"layer": "keras.Reshape", "inputs": "routed", "target_shape": [-1, 3]},
        "classes": {
            "layer": "dynamic_capsules",
            "inputs": "list",
            "capsules": 5,
            "dim": 4,
            "softmax_over": "outputs",
            "share_positions": False,
            "use_bias": False,
            "use_output_bias": True,
        },
        "scores": {"layer": "capsule_length", "inputs": "classes", "offset": 1e-7},
    },
    "SegCaps": {
        "hidden": {"layer": "transposed_convolution_dynamic_capsules", "inputs": "primary", "types": 3, "dim": 4},
        "routed": {
            "layer": "convolution_dynamic_capsules",
            "inputs": "hidden",
            "types": 5,
            "dim": 3,
            "normalize_over": "parents",
            "squash_over": "capsule",
        },
        "lengths": {"layer": "capsule_length", "inputs": "routed"},
        "scores": {"layer": "keras.GlobalAveragePooling2D", "inputs": "lengths"},
    },
    "self-attention": {
        "short": {"layer": "squash", "inputs": "primary", "variant": "exponential"},
        "hidden": {
            "layer": "self_attention_capsules",
            "inputs": "short",
            "capsules": 4,
            "dim": 6,
            "kernel_size": 2,
            "matrices": "type",
        },
        "classes": {"layer": "self_attention_capsules", "inputs": "hidden", "capsules": 5, "dim": 4},
        "scores": {"layer": "capsule_length", "inputs": "classes", "epsilon": 1e-7},
    },
    "homogeneous vectors": {
        "conv": {"layer": "capsules_to_image", "inputs": "primary"},
        "first": {"layer": "homogeneous_vector_capsules", "inputs": "conv", "capsules": 5},
        "second": {
            "layer": "homogeneous_vector_capsules",
            "inputs": "image",
            "capsules": 5,
            "capsules_of": "filter",
            "moving_average": "warm",
        },
        "first_lengths": {"layer": "capsule_length", "inputs": "first"},
        "second_lengths": {"layer": "capsule_length", "inputs": "second"},
        "scores": {"layer": "merge_branches", "inputs": ["first_lengths", "second_lengths"]},
    },
}


WHOLE = ["efficient_capsnet_small_norb", "em_small_norb", "sequence_capsules", "sequence_gru", INTERESTS]


@pytest.fixture(params=[*NETWORKS, *WHOLE], ids=lambda name: Path(name).stem)
def network(request):
    """A network with weights of usable size, images or sequences, and what it makes of them."""
    keras.utils.set_random_seed(0)
    if request.param in NETWORKS:
        nodes = {"primary": PRIMARY, **NETWORKS[request.param]}
        model = build_model({"model": {"inputs": {"image": [7, 7, 1]}, "nodes": nodes, "outputs": {"out": "scores"}}})
        for weight in model.trainable_weights:
            weight.assign(torch.randn(weight.shape) / 2)
    else:
        model = build_model(request.param, SMALL_NETWORKS[request.param])
        for weight in model.trainable_weights:  # short capsules of a start would hide faults
            weight.assign(weight.value + torch.randn(weight.shape) / 10)
    images = np.random.default_rng(0).random((7, *model.input_shape[1:]), "float32")
    images[::2, 5:] *= images.ndim > 3  # padded steps of sequences
    expected = model.predict(images, verbose=0)
    assert np.abs(expected).max() > 1e-2
    return model, images, expected


def test_torch_gives_the_same_outputs_for_any_number_of_images(network, tmp_path):
    model, images, expected = network
    export_model(model, tmp_path / "network.pt2", "torch")
    program = torch.export.load(tmp_path / "network.pt2").module()
    for size in (1, 7):
        found = program(torch.from_numpy(images[:size])).numpy(force=True)
        np.testing.assert_allclose(found, expected[:size], rtol=0, atol=1e-5)


def test_onnx_gives_the_same_outputs_for_any_number_of_images(network, tmp_path):
    model, images, expected = network
    export_model(model, tmp_path / "network.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for size in (1, 7):
        [found] = session.run(["scores"], {"images": images[:size]})
        np.testing.assert_allclose(found, expected[:size], rtol=0, atol=1e-5)
