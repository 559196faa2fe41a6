"""Builds networks of homogeneous vector capsules from our spec, draws weights by the files' recipe, and compares."""

import re
from pathlib import Path

import keras
import numpy as np
import torch
from golden.drawn_weights import drawn
from golden.routing_networks import Differences
from support.double_precision import double_precision

from encapkeras import build_model

SPEC = "base/homogeneous_vectors.yaml"
NOISE = 1e-9  # norms below are of rounding errors: logits that all grow alike change no loss
WEIGHTS = {"beta": "offset", "mean": "mean", "variance": "variance"}
IN_KERAS = {"beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def differences(meta: dict, expected: dict[str, torch.Tensor], path: Path) -> Differences:
    """Compare logits in prediction and training, the loss, and the norms of all gradients."""
    with double_precision():
        model = _model(meta)
        weights = {name: _weight(model, name) for name in meta["specs"]}
        for name, value in drawn(meta).items():
            weights[name].assign(value.transpose(2, 1, 0) if re.match(r"branch\d+\.W", name) else value)
        images = torch.from_numpy(np.random.default_rng(meta["seed"]).uniform(0, 1, (meta["batch"], *meta["shape"])))
        with torch.no_grad():
            evaluated = model(images, training=False)
        output = model(images, training=True)
        (loss,) = model.make_losses().values()
        total = loss(expected["in/y"], output)
        total.backward()
    received = {"eval_logits": evaluated, "train_logits": output, "train_loss": total}
    distances = [float((received[name].detach() - expected[f"out/{name}"]).abs().max()) for name in received]
    norms = {name: float(weights[name].value.grad.norm()) for name in meta["grad_norms"]}
    gradients = [abs(norms[name] - norm) / max(norm, NOISE * 10) for name, norm in meta["grad_norms"].items()]
    return Differences(max(distances), max(gradients))


def _model(meta: dict) -> keras.Model:
    """Return our network for images, classes, convolutions and branches of any number."""
    arguments = meta["args"]
    after = [number + 1 for number in arguments["branches_after"]]
    nodes = {
        "conv$i": {"repeat": [{"i": number + 1} for number in range(arguments["convolutions"])]},
        "branch$i": {"repeat": [{"i": number, "after": place} for number, place in enumerate(after, 1)]},
        "merge": {
            "inputs": [f"branch{number}" for number in range(1, len(after) + 1)],
            "branch_weights": "learned" if "merge.W" in meta["specs"] else "fixed",
        },
    }
    sizes = {name: arguments[name] for name in ("filters", "growth")}
    spec = {
        "spec": "encapkeras/1",
        "name": "golden",
        "extends": SPEC,
        "vars": {**sizes, "classes": meta["specs"]["branch1.W"][0][0]},
        "data": None,
        "model": {"inputs": {"image": meta["shape"]}, "nodes": nodes},
    }
    return build_model(spec)


def _weight(model: keras.Model, name: str) -> keras.Variable:
    """Return our weight of a name of theirs, such as `branch1.beta`."""
    place, part = name.split(".")
    if place.startswith("conv"):
        layer = f"{place}:conv" if part == "W" else f"{place}:norm"
        weight = IN_KERAS.get(part, "kernel")
    else:
        layer = place if place == "merge" else f"{place}:capsules"
        weight = f"norm_{WEIGHTS[part]}" if part in WEIGHTS else "branch_weight" if place == "merge" else "kernel"
    (found,) = [variable for variable in model.get_layer(layer).weights if variable.name == weight]
    return found
