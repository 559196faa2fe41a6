"""Adapters for the files of homogeneous vector capsules, and of their losses."""

import torch

from encapkeras.functional import NormWeights, capsule_length, homogeneous_vector_capsules
from encapkeras.losses import cross_entropy, margin_loss

CAPSULES_OF = {"xyz": "position", "zxy": "filter"}


def homogeneous_vectors(meta, arrays):
    arguments = meta["args"]
    offset, mean, variance = (arrays[f"param/{name}"] for name in ("beta", "mean", "variance"))
    norm = NormWeights(torch.ones_like(offset), offset, mean.detach().clone(), variance.detach().clone())
    out = homogeneous_vector_capsules(
        arrays["in/x"],
        arrays["param/W"].permute(2, 1, 0),
        norm,
        training=arguments["training"],
        capsules_of=CAPSULES_OF[arguments["kind"]],
        momentum=1 - 0.9997,
    )
    outputs = {"v": out, "logits": capsule_length(out)}
    return {**outputs, "new_mean": norm.mean, "new_variance": norm.variance} if arguments["training"] else outputs


def losses(meta, arrays):
    """Their margin loss is half of the usual one."""
    logits, labels = arrays["in/logits"], arrays["in/y"]
    reconstructed = 0.0005 * (arrays["in/reconstruction"] - arrays["in/image"]).square().flatten(1).sum(1)
    entropy = cross_entropy(logits, labels)
    made = {
        "cross_entropy": entropy,
        "margin_mse": margin_loss(logits, labels) / 2 + reconstructed,
        "cross_entropy_mse": entropy + reconstructed,
    }
    return {name: value.mean() for name, value in made.items()}


BY_NAME = {"hvc": homogeneous_vectors, "hvc_losses": losses}
