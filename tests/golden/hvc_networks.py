"""Builds networks of homogeneous vector capsules from our spec, draws weights by the files' recipe, and compares."""

import re

import keras
import numpy as np
import torch
from golden.drawn_weights import drawn
from golden.routing_networks import Differences
from support.double_precision import double_precision

from encapkeras import build_model

SPEC = "homogeneous_vectors_mnist"
NOISE = 1e-9  # norms below are of rounding errors: logits that all grow alike change no loss
WEIGHTS = {"beta": "offset", "mean": "mean", "variance": "variance"}
IN_KERAS = {"beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def is_here(name: str) -> bool:
    return name.startswith("hvc_")


def differences(meta: dict, expected: dict[str, torch.Tensor]) -> Differences:
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
    arguments, (side, _, channels) = meta["args"], meta["shape"]
    after = [number + 1 for number in arguments["branches_after"]]
    names = ", ".join(f"branch{number}" for number in range(1, len(after) + 1))
    rows = ", ".join(f"{{i: {number}}}" for number in range(1, arguments["convolutions"] + 1))
    branches = ", ".join(f"{{i: {number}, after: {place}}}" for number, place in enumerate(after, 1))
    changes = [
        f"vars.filters={arguments['filters']}",
        f"vars.growth={arguments['growth']}",
        f"model.nodes.conv$i.repeat=[{rows}]",
        f"model.nodes.branch$i.repeat=[{branches}]",
        f"model.nodes.merge.inputs=[{names}]",
        f"model.nodes.merge.branch_weights={'learned' if arguments['merge'] else 'fixed'}",
        f"data.image_size={side}",
        "data.augment=null",
        f"data.dataset={'mnist' if channels == 1 else 'cifar10' if channels == 3 else 'small_norb'}",
        *(["data.channels=2"] if channels == 2 else []),
    ]
    return build_model(SPEC, changes)


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
