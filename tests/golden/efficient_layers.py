"""Adapters of Efficient-CapsNet's layers: between its code's layouts and ours."""

import torch

from encapkeras.functional import (
    capsule_length,
    mask_capsules,
    primary_capsules,
    self_attention_routing,
    squash,
)
from encapkeras.losses.margin import margin_loss


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


def self_attention(meta: dict, arrays: dict) -> dict[str, torch.Tensor]:
    """The class capsules of a list of children, which is a map of one position."""
    weight = arrays["param/W"].permute(1, 0, 3, 2)  # (J, I, D, E)
    bias = arrays["param/b"][..., 0].mT
    out = self_attention_routing(arrays["in/x"][:, None, None], weight[None, None], bias[None, None])
    return {"v": out[:, 0, 0]}


def losses(meta: dict, arrays: dict) -> dict[str, torch.Tensor]:
    """Lengths, the losses of both parts, and what the decoder is given in training and in prediction."""
    capsules, targets = arrays["in/v"], arrays["in/y"]
    length = capsule_length(capsules, epsilon=1e-7)
    margin = margin_loss(length, targets).mean()
    error = (arrays["in/reconstruction"] - arrays["in/image"]).square().mean()
    return {
        "length": length,
        "margin": margin,
        "mse": error,
        "total": margin + meta["args"]["reconstruction_weight"] * error,
        "masked_true": mask_capsules(capsules, targets),
        "masked_longest": mask_capsules(capsules),
    }


BY_NAME = {
    "eff_squash": exponential_squash,
    "eff_primary": depthwise_primary,
    "eff_fccaps": self_attention,
    "eff_loss": losses,
}
