"""Builds our specs of published networks, loads weights drawn by the recipe of the golden files, and compares.

The weights come in by the way of checkpoints: as a state dict with the names and layouts of the authors' code.
"""

import json
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from support.double_precision import double_precision

from encapkeras import build_model
from encapkeras.interop import load_original_state_dict, original_state_dict

SPECS = {
    "sr_resnet20_avg": "average_resnet20",
    "sr_resnet20_sr1": "self_routing_resnet20",
    "sr_resnet20_sr2": "self_routing_resnet20_depth2",
    "sr_resnet20_dr1": "dynamic_resnet20",
    "sr_resnet20_dr2": "dynamic_resnet20_depth2",
    "sr_resnet20_em1": "em_resnet20",
    "sr_resnet20_em2": "em_resnet20_depth2",
    "sr_convnet_sr1": "self_routing_convnet",
    "sr_convnet_dr1": "dynamic_convnet",
    "sr_convnet_em1": "em_convnet",
    "sr_smallnet_sr": "self_routing_smallnet",
    "idpa_cifar10_concurrent_t2": "inverted_attention_cifar10",
    "idpa_cifar10_sequential_t2": "inverted_attention_cifar10",
    "idpa_cifar10_t1": "inverted_attention_cifar10",
    "vb_64_8_16_16_5": "variational_bayes_small_norb",
    "vb_tiny_64_16_5": "variational_bayes_small_norb_tiny",
}
OWN_PIXELS = ["vars.mean=0.0", "vars.deviation=1.0"]  # the files' images are not normalized
CHANGES = {
    "idpa_cifar10_sequential_t2": [*OWN_PIXELS, "vars.concurrent=false"],
    "idpa_cifar10_t1": [*OWN_PIXELS, "vars.iterations=1"],
    "vb_64_8_16_16_5": ["model.nodes.Conv_1.inputs=image"],
    "vb_tiny_64_16_5": ["model.nodes.Conv_1.inputs=image"],
}
MARGIN = 0.3  # of the files' spread loss, which counts the present class too
NOISE = 1e-7  # norms below are of rounding errors


class Differences(NamedTuple):
    """The largest differences of outputs and losses, and of the norms of gradients."""

    output: float
    gradient: float


def differences(path: Path) -> Differences:
    """Compare outputs in prediction and training, the loss, and the norms of all gradients."""
    expected = json.loads(path.read_text())
    with double_precision():
        model = build_model(SPECS[path.stem], CHANGES.get(path.stem, OWN_PIXELS))
        load_original_state_dict(model, _checkpoint(expected))
        rng = np.random.default_rng(expected["seed"])
        images = torch.from_numpy(rng.uniform(0, 1, (expected["batch"], *expected["image"]))).permute(0, 2, 3, 1)
        with torch.no_grad():
            evaluated = _as_published(expected, model(images, training=False))
        output = model(images, training=True)
        (loss,) = model.make_losses().values()
        if expected["loss"].startswith("spread"):
            loss.margin = MARGIN
        total = loss(torch.tensor(expected["targets"]), output)
        total.backward()
        found = [
            _distance(evaluated, expected["eval_output"]),
            _distance(_as_published(expected, output), expected["train_output"]),
            _distance(total + _constant(expected), expected["train_loss"]),
        ]
        return Differences(max(found), _of_gradients(model, expected["grad_norms"]))


def _checkpoint(expected: dict) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(_drawn(name, shape, expected)) for name, shape in expected["state_dict"].items()}


def _drawn(name: str, shape: list[int], expected: dict) -> np.ndarray:
    """Draw a tensor by the recipe."""
    rng = np.random.default_rng([expected["seed"], zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if name in expected["fans"]:
        return rng.standard_normal(shape) / math.sqrt(expected["fans"][name])
    if len(shape) == 1:
        return 0.1 * rng.standard_normal(shape) + name.endswith(".weight")
    return rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def _as_published(expected: dict, output: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of shares where the authors' networks give these; ours leave them to the loss."""
    return (output / output.sum(1, keepdim=True)).log() if expected["loss"] == "nll" else output


def _constant(expected: dict) -> float:
    return MARGIN**2 if expected["loss"].startswith("spread") else 0


def _distance(received: torch.Tensor, expected: object) -> float:
    return float((received.detach() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def _of_gradients(model: object, norms: dict[str, float | None]) -> float:
    """Return the largest relative difference of norms; of noise, ten times the difference."""
    for variable in model.trainable_variables:  # so that the gradients get their original names
        variable.assign(variable.value.grad)
    gradients = original_state_dict(model)
    fixed = ("running_mean", "running_var", "num_batches_tracked")
    used = {name: norm for name, norm in norms.items() if norm is not None}
    assert {name for name in gradients if not name.endswith(fixed)} == set(used)
    distances = {name: abs(gradients[name].norm().item() - norm) for name, norm in used.items()}
    return max(distances[name] / (norm if norm > NOISE else 0.1) for name, norm in used.items())
