"""Builds the matrix capsules of Gritzman's code from our spec, draws weights by its files' recipe, and compares."""

from pathlib import Path

import keras
import numpy as np
import torch
from golden.drawn_weights import drawn
from golden.em_layers import margin
from golden.routing_networks import Differences
from support.double_precision import double_precision

from encapkeras import build_model

OWN_PIXELS = "model.nodes.batch_normal.inputs=image"  # the files' images are not normalized
SIZES = {"A": "filters", "B": "primary_types", "C": "first_types", "D": "second_types", "iterations": "iterations"}
SPEC = "em_small_norb"
LAYERS = {
    "BatchNorm": "batch_normal",
    "relu_conv1": "conv",
    "primary_caps/pose": "channels",
    "primary_caps/activation": "activations",
    "lyr.conv_caps1": "first",
    "lyr.conv_caps2": "second",
    "class_caps": "toys",
}
WEIGHTS = {"weights": "kernel", "biases": "bias", "w": "kernel"}
MARGIN = margin(200_000)  # of the spread loss


def differences(meta: dict, expected: dict[str, torch.Tensor], path: Path) -> Differences:
    """Compare scores in prediction and training, the loss, and the norms of all gradients."""
    with double_precision():
        model = _model(meta)
        weights = {name: _weight(model, name) for name in meta["specs"]}
        for name, value in drawn(meta).items():
            weights[name].assign(value.reshape(weights[name].shape))
        images = np.random.default_rng(meta["seed"]).standard_normal((meta["batch"], *meta["shape"]))
        with torch.no_grad():
            evaluated = model(torch.from_numpy(images), training=False)
        output = model(torch.from_numpy(images), training=True)
        (loss,) = model.make_losses().values()
        loss.margin = MARGIN
        total = loss(expected["in/y"], output)
        total.backward()
    received = {"eval_scores": evaluated, "train_scores": output, "train_spread_200000": total}
    distances = [float((received[name].detach() - expected[f"out/{name}"]).abs().max()) for name in received]
    norms = {name: float(weights[name].value.grad.norm()) for name in meta["grad_norms"]}
    gradients = [abs(norms[name] - norm) / norm for name, norm in meta["grad_norms"].items()]
    return Differences(max(distances), max(gradients))


def _model(meta: dict) -> keras.Model:
    sizes = [f"vars.{ours}={meta['args'][theirs]}" for theirs, ours in SIZES.items()]
    images = [f"data.image_size={meta['shape'][0]}", f"data.channels={meta['shape'][2]}", "data.augment=null"]
    return build_model(SPEC, [*sizes, *images, OWN_PIXELS])


def _weight(model: keras.Model, name: str) -> keras.Variable:
    """Return our weight of a name of the original's, such as `lyr.conv_caps1/routing/beta_a`."""
    layer = next(ours for theirs, ours in LAYERS.items() if name.startswith(f"{theirs}/"))
    leaf = name.rpartition("/")[2]
    (found,) = [weight for weight in model.get_layer(layer).weights if weight.name == WEIGHTS.get(leaf, leaf)]
    return found
