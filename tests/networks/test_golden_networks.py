"""Whole networks, built from their specs, equal the original's: outputs, losses and gradients, in float64.

The weights follow the recipe of the golden numbers: each is drawn from a generator seeded by its original name, and
reaches our network the way that a checkpoint of the original does.
"""

import json
import math
import zlib

import keras
import numpy as np
import pytest
import torch
from support.golden import FOLDER

from encapkeras import build_model
from encapkeras.interop import load_original_state_dict, original_state_dict

NETWORKS = {
    "encapnet_ot": "encapnet_ot",
    "encapnet_ot_approximate": "encapnet_ot_approximate",
    "encapnet_table_master": "encapnet_table_master",
    "encapnet_table_approximate": "encapnet_table_approximate",
    "encapnet_master_wide": "encapnet_wide_every_n4",
    "capnet_dynamic": "capnet_dynamic",
    "capnet_em": "capnet_em",
    "resnet_same_shape": "resnet_same_shape",
}
TOLERANCE = 1e-8
FACTOR = 20  # of the optimal-transport losses; the golden sum is without it


def recipe_tensor(name, shape, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
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
    expected = json.loads((FOLDER / "networks" / f"{NETWORKS[spec]}.json").read_text())
    model = build_model(spec)
    checkpoint = {
        name: torch.from_numpy(recipe_tensor(name, shape, expected["seed"]))
        for name, shape in expected["state_dict"].items()
    }
    load_original_state_dict(model, checkpoint)

    rng = np.random.default_rng(expected["seed"])
    images = torch.from_numpy(rng.uniform(0, 1, (expected["batch"], 3, 32, 32))).permute(0, 2, 3, 1)
    labels = torch.tensor(expected["targets"])
    with torch.no_grad():
        assert_close(model(images, training=False), expected["eval_output"])
        if "eval_activation" in expected:
            activations = keras.Model(model.inputs, model.port("digits/activations"))
            assert_close(activations(images, training=False), expected["eval_activation"])

    model.compile(loss=model.make_losses(), loss_weights=model.loss_weights, jit_compile=False)
    seen = []
    model.loss_watcher = seen.append
    output = model(images, training=True)
    assert_close(output, expected["train_output"])
    loss = model.compute_loss(images, labels, output, training=True)
    parts = dict(seen[0].parts)
    assert_close(parts.pop("that on the outputs"), expected["train_class_loss"])
    assert_close(sum(parts.values(), torch.zeros(())) / FACTOR, expected.get("train_ot_loss", 0))

    loss.backward()
    for variable in model.trainable_variables:  # so that the gradients get their original names
        variable.assign(variable.value.grad)
    gradients = original_state_dict(model)
    fixed = ("running_mean", "running_var", "num_batches_tracked")
    assert {name for name in gradients if not name.endswith(fixed)} == set(expected["grad_norms"])
    for name, norm in expected["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=100 * TOLERANCE, abs=1e-9)


def assert_close(received, expected):
    difference = (received.detach() - torch.tensor(expected, dtype=torch.float64)).abs().max().item()
    assert difference <= TOLERANCE
