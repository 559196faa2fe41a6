"""Adapters for capsules with a bias (capsnet-limitations), and for Efficient-CapsNet's version of the first CapsNet."""

import torch

from encapkeras.functional import SquashOptions, dynamic_routing, primary_capsules, squash, window_dynamic_routing

PEER = SquashOptions(epsilon=1e-8, epsilon_in="square", offset=1e-8)
ESCVM = SquashOptions(epsilon=1e-7, epsilon_in="length")


def peer_squash(meta, arrays):
    return {"y": squash(arrays["in/x"], **PEER._asdict())}


def uniform(meta, arrays):
    """Uniform coefficients: one iteration, of a list as a map of one position."""
    capsules, weight = arrays["in/x"][:, None, None], arrays["param/W"].transpose(1, 2).unsqueeze(0)
    options = {"iterations": meta["args"]["iterations"], "output_bias": _bias(arrays, "bias"), "squash_options": PEER}
    if meta["args"]["one_map"]:
        options["window"] = 1
    return {"v": window_dynamic_routing(capsules, weight, **options)[:, 0, 0]}


def agreement(meta, arrays):
    """Children with their own matrices are types of one position; with one matrix, positions of one type."""
    out = dynamic_routing(
        arrays["in/x"].unsqueeze(2 if meta["args"]["one_map"] else 1),
        arrays["param/W"][0].transpose(0, 1),
        iterations=meta["args"]["iterations"],
        softmax_over="outputs",
        output_bias=_bias(arrays, "bias"),
        squash_options=PEER,
    )
    return {"v": out}


def _bias(arrays, name):
    return arrays[f"param/{name}"].reshape(arrays[f"param/{name}"].shape[-2:]) if f"param/{name}" in arrays else None


def digit_capsules(meta, arrays):
    """Without iterations the coefficients are 1, so that sums are no means."""
    arguments, capsules = meta["args"], arrays["in/x"].flatten(1, 3).unsqueeze(1)
    weight = arrays["param/W"].unflatten(2, (arguments["capsules"], arguments["dim"])).permute(0, 2, 3, 1)
    out = dynamic_routing(
        capsules,
        weight,
        iterations=max(1, arguments["routing"]),
        softmax_over="outputs",
        coefficients=None if arguments["routing"] else torch.ones(weight.shape[:2], dtype=torch.float64),
        output_bias=arrays["param/biases"],
        squash_options=ESCVM,
    )
    return {"v": out}


def primary(meta, arrays):
    """The release divides the convolution by the number of types; here its kernel is."""
    arguments = meta["args"]
    kernel, bias = arrays["param/kernel"] / arguments["types"], arrays["param/biases"]
    options = {"types": arguments["types"], "strides": arguments["stride"], "padding": 0}
    plain = {"norm": None, "relu": False, "squash": False, "training": False}
    out = primary_capsules(arrays["in/x"], kernel.permute(3, 2, 0, 1), bias.flatten(), **options, **plain)
    return {"u": squash(out, **ESCVM._asdict())}


BY_NAME = {
    "peer_squash": peer_squash,
    "uniform": uniform,
    "rba": agreement,
    "escvm_digitcaps": digit_capsules,
    "escvm_primary": primary,
}
