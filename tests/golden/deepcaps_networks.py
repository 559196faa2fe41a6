"""Builds DeepCaps from our specs, draws weights by its files' recipe, and compares."""

import zlib
from pathlib import Path

import keras
import numpy as np
import torch
from golden.routing_networks import Differences
from support.double_precision import double_precision

from encapkeras import build_model
from encapkeras.losses import MarginLoss

SPECS = {4: "deepcaps_mnist", 5: "deepcaps_cifar10"}
"""By the number of transposed convolutions."""
LAYERS = {"route3d1": "cell4.routed", "caps1": "capsules"}
WEIGHTS = {
    "W": "kernel",
    "B": "output_bias",
    "b": "bias",
    "dense1.kernel": "kernel",
    "dense1.bias": "dense_bias",
    "bn1.gamma": "norm_scale",
    "bn1.beta": "norm_offset",
    "bn1.moving_mean": "norm_mean",
    "bn1.moving_variance": "norm_variance",
}
RECONSTRUCTION = 0.4  # weight of the mean over pixels and channels


def differences(meta: dict, expected: dict[str, torch.Tensor], _: Path) -> Differences:
    """Compare capsules, lengths and images in prediction and training, losses, and the norms of all gradients."""
    with double_precision():
        model = _model(meta)
        decoder = model.side_losses["reconstruction"]
        weights = {name: _weight(model, decoder, name) for name in meta["specs"]}
        for name, (shape, kind, scale, shift) in meta["specs"].items():
            rng = np.random.default_rng([meta["seed"], zlib.crc32(name.encode())])
            normal = kind == "normal"
            drawn = shift + scale * rng.standard_normal(shape) if normal else rng.uniform(0.5, 1.5, shape)
            weights[name].assign(_in_our_layout(name, drawn, weights[name].shape))
        images = np.random.default_rng(meta["seed"]).uniform(0, 1, (meta["batch"], *meta["shape"]))
        received = _outputs(model, decoder, torch.from_numpy(images), expected["in/y"])
        received["train_total"].backward()
    distances = [float((received[name].detach() - expected[f"out/{name}"]).abs().max()) for name in meta["outputs"]]
    norms = {name: float(weights[name].value.grad.norm()) for name in meta["grad_norms"]}
    gradients = [abs(norms[name] - norm) / norm for name, norm in meta["grad_norms"].items()]
    return Differences(max(distances), max(gradients))


def _model(meta: dict) -> keras.Model:
    height, _, channels = meta["shape"]
    spec = SPECS[sum("deconv" in name and name.endswith("kernel") for name in meta["specs"])]
    images = [f"data.image_size={height}", f"vars.pixels={height**2 * channels}"]
    return build_model(spec, ["vars.layout=reference", "data.augment=null", *images])


def _outputs(model: keras.Model, decoder: keras.layers.Layer, images: torch.Tensor, labels: torch.Tensor) -> dict:
    inner = keras.Model(model.inputs, [model.get_layer("capsules").output, model.outputs[0]])
    with torch.no_grad():
        capsules, lengths = inner(images, training=False)
    received = {"eval_caps": capsules, "eval_length": lengths}
    received["eval_reconstruction_sum"] = decoder.reconstruct(capsules).flatten(1).sum(1)
    capsules, lengths = inner(images, training=True)
    (margin,) = model.make_losses().values()
    hard = MarginLoss(upper=0.95, lower=0.05, absent_weight=0.8)
    tensors = {"capsules": capsules, "labels": labels, "training": True}
    squares = decoder(**tensors, image=images)
    # (x - 0)^2 - (x - 1)^2 = 2 x - 1
    apart = decoder(**tensors, image=torch.zeros_like(images)) - decoder(**tensors, image=torch.ones_like(images))
    received["train_length"] = lengths
    received["train_margin"], received["train_margin_hard"] = margin(labels, lengths), hard(labels, lengths)
    pixels = images[0].numel()
    received["train_mse"] = squares.mean() / pixels
    received["train_reconstruction_sum"] = (apart + pixels) / 2
    received["train_total"] = received["train_margin"] + RECONSTRUCTION * received["train_mse"]
    return received


def _weight(model: keras.Model, decoder: keras.layers.Layer, name: str) -> keras.Variable:
    """Return our weight of a name such as `cell4.conv1.kernel` or `decoder.deconv2.bias`."""
    place, leaf = name.rsplit(".", 1)
    if place.startswith("decoder."):
        layer, leaf = decoder, name.removeprefix("decoder.").replace("deconv", "transposed")
        wanted = WEIGHTS.get(leaf, leaf.replace(".", "_"))
    else:
        layer, wanted = model.get_layer(LAYERS.get(place, place).replace(".", ":")), WEIGHTS.get(leaf, leaf)
    (found,) = [weight for weight in layer.weights if weight.name == wanted]
    return found


def _in_our_layout(name: str, drawn: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name == "caps1.W":
        drawn = drawn.swapaxes(0, 1)
    elif name == "route3d1.W":  # (D, K, K, 1, J * E)
        drawn = drawn[..., 0, :].transpose(3, 0, 1, 2)
    elif drawn.ndim == 6:  # (K, K, N, D, J, E)
        drawn = drawn.reshape(*drawn.shape[:2], drawn.shape[2] * drawn.shape[3], -1).transpose(3, 2, 0, 1)
    elif "deconv" in name and drawn.ndim == 4:  # (K, K, outputs, inputs)
        drawn = drawn.transpose(3, 2, 0, 1)
    return drawn.reshape(shape)
