"""Calls our functions with the numbers of golden files of DeepCaps: between the files' layouts and ours."""

import torch

from encapkeras.functional import (
    DecoderWeights,
    NormWeights,
    SquashOptions,
    TransposedConvolution,
    capsule_length,
    convolution_capsules,
    convolution_dynamic_routing,
    dynamic_routing,
    squash,
    transposed_decoder,
)
from encapkeras.losses.margin import margin_loss


def squashes(meta, arrays):
    x = arrays["in/x"]
    return {
        "squeeze": squash(x, epsilon=1e-7),
        "squash": squash(x),
        "length": capsule_length(x, offset=1e-7),
    }


def flatten_and_choose(meta, arrays):
    """Capsules as a list by position, and of the classes the true and the longest."""
    classes, labels = arrays["in/v"], arrays["in/y"]
    longest = capsule_length(classes.detach()).argmax(1)
    return {
        "flat": arrays["in/x"].flatten(1, 3),
        "chosen_true": (classes * labels[..., None]).sum(1),
        "chosen_longest": classes[torch.arange(len(classes)), longest],
    }


def losses(meta, arrays):
    lengths, labels = arrays["in/length"], arrays["in/y"]
    hard = {"upper": 0.95, "lower": 0.05, "absent_weight": 0.8}
    return {
        "margin": margin_loss(lengths, labels, upper=0.9, lower=0.1, absent_weight=0.5).mean(),
        "margin_hard": margin_loss(lengths, labels, **hard).mean(),
    }


def convolution(meta, arrays):
    arguments = meta["args"]
    kernel = arrays["param/kernel"].flatten(2, 3).flatten(3).permute(3, 2, 0, 1)
    strides, padding = arguments["stride"], arguments["padding"]
    return {
        "y": convolution_capsules(arrays["in/x"], kernel, types=arguments["types"], strides=strides, padding=padding)
    }


def route_maps(meta, arrays):
    arguments = meta["args"]
    out = convolution_dynamic_routing(
        arrays["in/x"],
        arrays["param/W"].squeeze(3).permute(3, 0, 1, 2),
        arrays["param/b"][..., 0, 0],
        iterations=arguments["iterations"],
        strides=arguments["stride"],
        padding=arguments["padding"],
        layout="reference",
    )
    return {"v": out}


def classes(meta, arrays):
    weight, capsules = arrays["param/W"].transpose(0, 1), arrays["in/x"].unsqueeze(1)
    if "channels" in meta["args"]:  # neighbours in the list share a map: positions of one type
        capsules = capsules.unflatten(2, (len(weight), -1)).transpose(2, 3).squeeze(1)
    out = dynamic_routing(
        capsules,
        weight,
        iterations=meta["args"]["iterations"],
        softmax_over="outputs",
        output_bias=arrays["param/B"],
        squash_options=SquashOptions(),
    )
    return {"v": out}


def decoder(meta, arrays):
    *size, channels = meta["args"]["reshape"]
    moving = [torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)]
    count = len(meta["args"]["strides"])
    weights = DecoderWeights(
        arrays["param/dense.kernel"],
        arrays["param/dense.bias"],
        NormWeights(arrays["param/bn.gamma"], arrays["param/bn.beta"], *moving),
        [
            TransposedConvolution(
                arrays[f"param/deconv{number}.kernel"].permute(3, 2, 0, 1), arrays[f"param/deconv{number}.bias"]
            )
            for number in range(1, count + 1)
        ],
    )
    strides = meta["args"]["strides"]
    return {"image": transposed_decoder(arrays["in/v"], weights, size=tuple(size), strides=strides, training=True)}


BY_NAME = {
    "deep_decoder": decoder,
    "deep_squash": squashes,
    "deep_flatten": flatten_and_choose,
    "deep_losses": losses,
    "deep_convcaps": convolution,
    "deep_route3d": route_maps,
    "deep_classcaps": classes,
}
