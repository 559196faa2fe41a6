"""Whole networks, built from their specs, equal the original's: outputs, loss and gradients, in float64.

The weights follow the recipe of the golden numbers: each is drawn from a generator seeded by its original name.
"""

import json
import math
import re
import zlib

import keras
import numpy as np
import pytest
import torch
from support.golden import FOLDER

from encapkeras import build_model
from encapkeras.losses import CrossEntropyLoss, MarginLoss

NETWORKS = {
    "encapnet_table_master": "encapnet_table_master",
    "encapnet_table_approximate": "encapnet_table_approximate",
    "encapnet_master_wide": "encapnet_wide_every_n4",
    "capnet_dynamic": "capnet_dynamic",
    "capnet_em": "capnet_em",
    "resnet_same_shape": "resnet_same_shape",
}
# Keras' own pooling and dense layers compute in float32 whatever the policy; our layers in the policy's precision.
TOLERANCE = {"resnet_same_shape": 1e-6}
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "offset": "bias"}
LEAVES |= {"mean": "running_mean", "variance": "running_var"}
BRANCHES = {
    "master_norm": "main_cap.1",
    "aide": "res_cap.0",
    "aide_norm": "res_cap.1",
    "master_coefficient": "main_cap_coeff",
    "aide_coefficient": "res_cap_coeff",
}


def original_name(path, modules, all_paths):
    """The original's name of one of our weights."""
    node, leaf = path.split("/")
    if node in ("digits", "scores", "routed"):
        module = f"module{modules.index(node)}" if node == "routed" else "final_cls"
        if "routed/kernel" not in all_paths:
            return f"{module}.{LEAVES[leaf]}"
        return f"{module}.{leaf}" if leaf.startswith("beta") else f"{module}.W.{LEAVES[leaf]}"
    part, leaf = leaf.rsplit("_", 1)
    leaf = LEAVES[leaf]
    module = "generate_activate" if node == "activations" else f"module{modules.index(node)}"
    if part in ("convolution", "norm"):
        return f"{module}.{0 if part == 'convolution' else 1}.{leaf}"
    block, part = part.split("_", 1)
    prefix = f"{module}." if block == "step" else f"{module}.{block}_conv."
    if part == "projection":
        return f"{prefix}conv_adjust_blob_shape.{leaf}"
    number, part = re.fullmatch(r"(\d+)_(.+)", part).groups()
    first = 4 * (int(number) - 1)
    if part == "norm":
        return f"{prefix}block.{first + 1}.{leaf}"
    if part in BRANCHES:
        return f"{prefix}block.{first}.{BRANCHES[part]}.{leaf}"
    kernel = {"master": 0, "master_5": 0, "master_3": 1, "master_1": 2}[part]
    approximate = f"{node}/{block}_{number}_aide_kernel" in all_paths
    return f"{prefix}block.{first}.{'main_cap.0.' if approximate else ''}conv.{kernel}.{leaf}"


def recipe_tensor(name, shape, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if len(shape) == 1:
        return 0.1 * rng.standard_normal(shape) + name.endswith(".weight")
    fan = shape[1] if name == "final_cls.weight" and len(shape) == 3 else math.prod(shape[1:])
    return rng.standard_normal(shape) / math.sqrt(fan)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_equals_the_original(spec):
    tolerance = TOLERANCE.get(spec, 1e-8)
    expected = json.loads((FOLDER / "networks" / f"{NETWORKS[spec]}.json").read_text())
    model = build_model(spec)
    paths = [weight.path for weight in model.weights]
    modules = [node for node in dict.fromkeys(path.split("/")[0] for path in paths) if node != "activations"]
    names = {weight.path: original_name(weight.path, modules, paths) for weight in model.weights}
    assert set(names.values()) == {name for name in expected["state_dict"] if "num_batches" not in name}
    for weight in model.weights:
        name = names[weight.path]
        shape = expected["state_dict"][name]
        value = recipe_tensor(name, shape, expected["seed"])
        weight.assign(value.T if weight.path == "scores/kernel" else value.reshape(weight.shape))

    rng = np.random.default_rng(expected["seed"])
    images = torch.from_numpy(rng.uniform(0, 1, (expected["batch"], 3, 32, 32))).permute(0, 2, 3, 1)
    labels = torch.tensor(expected["targets"])
    loss = CrossEntropyLoss() if spec.startswith("resnet") else MarginLoss()
    with torch.no_grad():
        assert_close(model(images, training=False), expected["eval_output"], tolerance)
        if "eval_activation" in expected:
            activations = keras.Model(model.inputs, model.port("digits/activations"))
            assert_close(activations(images, training=False), expected["eval_activation"], tolerance)
    output = model(images, training=True)
    assert_close(output, expected["train_output"], tolerance)
    value = loss.call(labels, output).mean()
    assert_close(value, expected["train_class_loss"], tolerance)
    value.backward()
    for weight in model.trainable_weights:
        norm = expected["grad_norms"][names[weight.path]]
        received = weight.value.grad.norm().item()
        assert received == pytest.approx(norm, rel=100 * tolerance, abs=1e-9)


def assert_close(received, expected, tolerance):
    difference = (received.detach() - torch.tensor(expected, dtype=torch.float64)).abs().max().item()
    assert difference <= tolerance
