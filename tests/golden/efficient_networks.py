"""Builds Efficient-CapsNet from our specs, loads its weights by the way of checkpoints, and compares.

Weights are drawn by the recipe of the files, or are those of a file in a folder `weights` beside theirs.
"""

import zlib
from pathlib import Path

import keras
import numpy as np
import torch
from golden.routing_networks import Differences
from support.double_precision import double_precision

from encapkeras import build_model
from encapkeras.interop import load_original_state_dict, original_state_dict, read_checkpoint

SPECS = {"eff_mnist": "efficient_capsnet", "eff_smallnorb": "efficient_capsnet_small_norb"}
# Images of the files are not normalized, and the slope is that of TensorFlow, in float32.
CHANGES = {"eff_smallnorb": ["model.nodes.conv1.inputs=image", "vars.slope=0.30000001192092896"]}
WEIGHTS = {
    "eff_mnist_trained": "efficient_capsnet_mnist_trained_here.npz",
    "eff_smallnorb_published": "efficient_capsnet_smallnorb.npz",
}
LOOSER = 1e-3  # what counts of differences behind TensorFlow's bilinear resize, which is float32: 1e-5 is allowed
LOOSER_NORM = 1e-1  # likewise, of the norms of gradients
SMALLEST_NORM = 1e-14  # a sigmoid that saturates leaves gradients of 1e-13


def differences(meta: dict, expected: dict[str, torch.Tensor], path: Path) -> Differences:
    """Compare outputs in prediction and training, the losses, and the norms of all gradients."""
    has_decoder = "out/train_mse" in expected
    with double_precision():
        model = _model(path.stem, has_decoder)
        load_original_state_dict(model, _checkpoint(meta, path))
        images = expected["in/x"]
        images = images.double() / 255 if images.dtype == torch.uint8 else images  # the network divides on by 256 / 255
        parts = keras.Model(model.inputs, [model.get_layer("caps").output, *model.outputs])
        with torch.no_grad():
            caps, length = parts(images, training=False)
        received = {"eval_caps": caps, "eval_length": length}
        if has_decoder:
            received |= _trained(model, parts, images, expected["in/y"])
            received |= _reconstructed(model, caps)
            received["train_total"].backward()
        norms = _norms(model) if meta["grad_norms"] else {}
    loose = bool(meta.get("float32_parts"))
    return Differences(_largest(received, expected, loose), _largest_norm(norms, meta["grad_norms"], loose))


def _model(name: str, has_decoder: bool) -> keras.Model:
    start = max((start for start in SPECS if name.startswith(start)), key=len)
    changes = CHANGES.get(start, [])
    return build_model(SPECS[start], changes if has_decoder else [*changes, "losses.reconstruction=null"])


def _checkpoint(meta: dict, path: Path) -> dict[str, torch.Tensor]:
    if not meta.get("specs"):
        return read_checkpoint(path.parent.parent / "weights" / WEIGHTS[path.stem])
    weights = {}
    for name, (shape, kind, scale, shift) in meta["specs"].items():
        rng = np.random.default_rng([meta["seed"], zlib.crc32(name.encode())])
        normal = kind == "normal"
        drawn = shift + scale * rng.standard_normal(shape) if normal else rng.uniform(0.5, 1.5, shape)
        weights[name] = torch.from_numpy(drawn)
    return weights


def _trained(model, parts, images, targets):
    caps, length = parts(images, training=True)
    (margin,) = model.make_losses().values()
    loss = model.side_losses["reconstruction"]
    target = model.get_layer("normal")(images) if images.shape[-1] == 1 else images
    error = loss(capsules=caps, image=target, labels=targets).mean() / target[0].numel()
    made = loss.reconstruct(caps.detach(), targets)
    part = margin(targets, length)
    total = part + 0.392 * error
    return {
        "train_length": length,
        "train_margin": part,
        "train_mse": error,
        "train_total": total,
        "train_reconstruction_sum": made.flatten(1).sum(1),
    }


def _reconstructed(model, caps):
    made = model.side_losses["reconstruction"].reconstruct(caps)
    return {"eval_reconstruction_sum": made.flatten(1).sum(1), "eval_reconstruction_first": made[0]}


def _largest(received, expected, loose):
    found = {}
    for name, value in received.items():
        wanted = expected[f"out/{name}"]
        difference = float((value.detach() - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
        behind = any(part in name for part in ("reconstruction", "mse", "total"))
        found[name] = difference * (LOOSER if loose and behind else 1)
    return max(found.values())


def _norms(model):
    """Return the norms of gradients by the names of the weights in the original."""
    gradients = {id(weight): weight.value.grad for weight in model.trainable_weights}
    with torch.no_grad():
        for weight in model.trainable_weights:
            weight.assign(gradients[id(weight)])
    return {name: float(value.norm()) for name, value in original_state_dict(model).items()}


def _largest_norm(norms, expected, loose):
    differences = [abs(norms[name] - norm) / max(norm, SMALLEST_NORM) for name, norm in expected.items()]
    return max(differences, default=0.0) * (LOOSER_NORM if loose else 1)
