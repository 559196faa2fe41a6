"""Adapters of Efficient-CapsNet's layers: between its code's layouts and ours."""

import torch

from encapkeras.functional import primary_capsules, squash


def exponential_squash(meta: dict, arrays: dict) -> dict[str, torch.Tensor]:
    """Squash along the last axis."""
    return {"y": squash(arrays["in/x"], variant="exponential")}


def depthwise_primary(meta: dict, arrays: dict) -> dict[str, torch.Tensor]:
    """A depthwise convolution, as a list of capsules."""
    kernel = arrays["param/kernel"].permute(3, 2, 0, 1)  # (K, K, 1, C)
    options = {"strides": meta["args"]["stride"], "padding": 0, "relu": False, "squash": True, "training": False}
    types = kernel.shape[0] // meta["args"]["dim"]
    options["squash_variant"] = "exponential"
    capsules = primary_capsules(arrays["in/x"], kernel, arrays["param/bias"], None, types=types, **options)
    return {"u": capsules.flatten(1, 3)}


BY_NAME = {
    "eff_squash": exponential_squash,
    "eff_primary": depthwise_primary,
}
