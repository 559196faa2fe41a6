"""Calls our functions with the numbers of golden files: one adapter for each method, between its layouts and ours."""

import torch
from golden import deepcaps_layers, efficient_layers, em_layers, hvc_layers, peer_layers, sequence_layers
from torch.nn import functional as F

from encapkeras.functional import (
    AttentionLayer,
    EmOptions,
    NormWeights,
    VectorRoutingWeights,
    batch_norm,
    capsule_batch_norm,
    end_to_end_credit,
    heinsen_2019_routing,
    heinsen_2022_routing,
    inverted_attention_routing,
    self_routing,
    variational_bayes_routing,
    window_dynamic_routing,
    window_em_routing,
)


def call(name: str, meta: dict, arrays: dict) -> dict[str, torch.Tensor]:
    """Return the outputs that a file has, in its layouts."""
    adapter = _adapter(name, meta)
    assert adapter is not None, name
    return adapter(meta, arrays)


def is_here(name: str, meta: dict) -> bool:
    """Return whether there is an adapter for a file."""
    return _adapter(name, meta) is not None


def _adapter(name, meta):
    if "method" in meta:
        return METHODS.get(meta["method"])
    known = [start for start in BY_NAME if name.startswith(start)]
    return BY_NAME[max(known, key=len)] if known else None


def is_faulty(name: str) -> bool:
    """Return whether a file holds a fault of a release that ours does not have."""
    return "scrambled" in name


def noise(meta: dict) -> set[str]:
    """Return the gradients of a file that are rounding noise, or that belong to no output."""
    training = meta.get("method") == "vb" and meta["training"]
    return {"gradparam/routing.beta_u", "gradparam/routing.beta_a"} if training else set()


def _capsules(image, types):
    """View `(B, N * D, H, W)` as `(B, H, W, N, D)`."""
    return image.unflatten(1, (types, -1)).permute(0, 3, 4, 1, 2)


def _image(capsules):
    return capsules.permute(0, 3, 4, 1, 2).flatten(1, 2)


def _window(meta):
    return {"strides": meta["stride"], "padding": meta.get("padding", 0)}


def _matrices(weight, meta):
    """View a weight `(I, ...)` of all children of a window by offsets, `(K, K, N, ...)`."""
    return weight.unflatten(0, (meta["kernel"], meta["kernel"], meta["types_in"]))


def _self_routing(meta, arrays):
    types, outputs = meta["types_in"], meta["types_out"]
    has_poses = meta["pose_out"]
    weight = _matrices(arrays["param/W1"], meta).unflatten(3, (outputs, -1)) if has_poses else None
    routing_weight = _matrices(arrays["param/W2"], meta)
    routing_bias = _matrices(arrays["param/b2"][0, 0], meta)
    activations = arrays["in/a"].permute(0, 2, 3, 1)
    pose, out = self_routing(
        _capsules(arrays["in/pose"], types), activations, weight, routing_weight, routing_bias, **_window(meta)
    )
    outputs = {"a": out.permute(0, 3, 1, 2)}
    return {**outputs, "pose": _image(pose)} if has_poses else outputs


def _dynamic(meta, arrays):
    weight = _matrices(arrays["param/W"], meta).unflatten(3, (meta["types_out"], -1))
    capsules = _capsules(arrays["in/pose"], meta["types_in"])
    out = window_dynamic_routing(capsules, weight, iterations=meta["iterations"], **_window(meta))
    return {"pose": _image(out)}


def _em_of_hahn(meta, arrays):
    options = EmOptions(meta["final_lambda"], epsilon=1e-12, activation_floor=0, normalize_cost=False, initial="one")
    pose, out = window_em_routing(
        _capsules(arrays["in/pose"], meta["types_in"]),
        arrays["in/a"].permute(0, 2, 3, 1),
        _matrices(arrays["param/W"], meta),
        arrays["param/beta_u"].flatten(),
        arrays["param/beta_a"].flatten(),
        iterations=meta["iterations"],
        competition="position",
        options=options,
        **_window(meta),
    )
    return {"pose": _image(pose), "a": out.permute(0, 3, 1, 2)}


def _em_of_gritzman(meta, arrays):
    arguments = meta["args"]
    side = arguments["kernel"]
    weight = arrays["param/w"][0].unflatten(0, (side, side, -1))
    options = EmOptions(arguments["final_lambda"], fillers="filler" in meta.get("note", ""))
    pose, out = window_em_routing(
        arrays["in/pose"],
        arrays["in/activation"][..., 0],
        weight,
        arrays["param/beta_v"].flatten(),
        arrays["param/beta_a"].flatten(),
        iterations=arguments["iterations"],
        strides=arguments["stride"],
        options=options,
    )
    return {"pose_out": pose, "activation_out": out.unsqueeze(-1)}


def _em_class_of_gritzman(meta, arrays):
    """The class layer: matrices shared by all positions, votes with the coordinates of the child."""
    arguments, side = meta["args"], arrays["in/pose"].shape[1]
    pose, out = window_em_routing(
        arrays["in/pose"],
        arrays["in/activation"][..., 0],
        arrays["param/w"].expand(side, side, -1, -1, -1, -1),
        arrays["param/beta_v"].flatten(),
        arrays["param/beta_a"].flatten(),
        iterations=arguments["iterations"],
        offsets=em_layers.coordinates(side),
        options=EmOptions(arguments["final_lambda"]),
    )
    return {"pose_out": pose[:, 0, 0], "activation_out": out[:, 0, 0]}


def _attention(meta, arrays):
    layers = meta["layers"] if meta["layer"] == "stack" else [meta]
    prefixes = [f"{number}." for number in range(len(layers))] if meta["layer"] == "stack" else [""]
    capsules = arrays["in/x"]
    capsules = capsules.permute(0, 2, 3, 1, 4) if capsules.dim() == 5 else capsules[:, None, None]
    size = capsules.shape[1:4]
    stack = []
    for layer, prefix in zip(layers, prefixes, strict=True):
        weight = arrays[f"param/{prefix}w"]
        if layer["layer"] == "fc":  # ordered by type, then row, then column
            weight = weight.unflatten(0, (size[2], size[0], size[1])).permute(1, 2, 0, 3, 4, 5)
            size = (1, 1, layer["types_out"])
        else:
            sides = [(side - layer["kernel"]) // layer["stride"] + 1 for side in size[:2]]
            size = (*sides, layer["types_out"])
        weight = weight.permute(0, 1, 2, 5, 3, 4) if meta["matrix_pose"] else weight.permute(0, 1, 2, 4, 5, 3)
        scale, offset = _norm(arrays, prefix, layer["dim_out"])
        pose = "matrix" if meta["matrix_pose"] else "vector"
        stack.append(AttentionLayer(weight, scale, offset, strides=layer.get("stride", 1), pose=pose))
    concurrent = meta.get("concurrent", False)
    out = inverted_attention_routing(capsules, stack, iterations=meta["passes"], concurrent=concurrent)
    return {"v": out[:, 0, 0] if layers[-1]["layer"] == "fc" else out.permute(0, 3, 1, 2, 4)}


def _norm(arrays, prefix, dim):
    names = [f"param/{prefix}nonlinear_act.{part}" for part in ("weight", "bias")]
    return [arrays[name] if name in arrays else torch.ones(dim, dtype=torch.float64) for name in names]


def _variational_bayes(meta, arrays):
    side, kernel, outputs = meta["pose_side"], meta["kernel"], meta["types_out"]
    weight = arrays["param/votes.W_ij"]
    weight = weight.reshape(meta["types_in"], outputs, side, side, *weight.shape[-2:]).permute(4, 5, 0, 1, 2, 3)
    weight = weight.expand(kernel, kernel, -1, -1, -1, -1)
    activations = arrays["in/a"].permute(0, 2, 3, 1)
    sizes = [(size + 2 * meta["padding"] - kernel) // meta["stride"] + 1 for size in activations.shape[1:3]]
    means, scores = variational_bayes_routing(
        arrays["in/pose"].permute(0, 4, 5, 1, 2, 3).flatten(-2),
        activations,
        weight,
        iterations=meta["iterations"],
        covariance={"diag": "diagonal", "full": "full"}[meta["cov"]],
        **_coordinates(meta, sizes),
        **_window(meta),
    )
    betas = [torch.as_tensor(arrays[f"param/routing.beta_{part}"]).flatten() for part in ("a", "u")]
    scores = scores + betas[0] - betas[1]
    out = _batch_norm(scores, arrays, "BN_a", meta["training"]).sigmoid()
    pose = _batch_norm(means, arrays, "BN_v", meta["training"]).unflatten(-1, (side, side))
    if meta["class_layer"]:
        return {"a": out[:, 0, 0], "pose": pose[:, 0, 0]}
    return {"a": out.permute(0, 3, 1, 2), "pose": pose.permute(0, 3, 4, 5, 1, 2)}


def _variational_bayes_primary(meta, arrays):
    """One convolution; poses normalized by type, activations by type and through a sigmoid."""
    types, training = meta["types_in"] if "types_in" in meta else meta["types_out"], meta["training"]
    side = meta["pose_side"]
    image = F.conv2d(arrays["in/x"], arrays["param/weight"], stride=meta["stride"], padding=meta["padding"])
    pose = image[:, : types * side * side].unflatten(1, (types, side * side)).flatten(3)
    norms = [NormWeights(*(arrays[f"param/BN_{kind}.{part}"].clone() for part in _NORM)) for kind in ("p", "a")]
    pose = capsule_batch_norm(pose, norms[0], training=training).unflatten(2, (side, side))
    out = batch_norm(image[:, types * side * side :].flatten(2), norms[1], training=training).sigmoid()
    size = image.shape[2:]
    return {"a": out.unflatten(2, size), "pose": pose.unflatten(4, size)}


_NORM = ("weight", "bias", "running_mean", "running_var")


def _coordinates(meta, sizes):
    """Return the coordinates that the release adds to two elements of the votes."""
    side, kernel = meta["pose_side"], meta["kernel"]
    if not meta["coordinates"]:
        return {}
    if meta["class_layer"]:
        offsets = torch.zeros(kernel, kernel, side * side, dtype=torch.float64)
        offsets[..., [side - 1, 2 * side - 1]] = 0.1
        return {"offsets": offsets}
    offsets = torch.zeros(*sizes, side * side, dtype=torch.float64)
    rows, columns = ((torch.arange(size, dtype=torch.float64) + 1) / (10 * sizes[1]) for size in sizes)
    offsets[..., side - 1], offsets[..., 2 * side - 1] = rows[:, None], columns
    return {"parent_offsets": offsets}


def _batch_norm(values, arrays, name, training):
    """Normalize by one statistic for each type, axis 3."""
    by_type = values.movedim(3, 1)
    statistics = [torch.as_tensor(arrays[f"param/routing.{name}.running_{part}"]) for part in ("mean", "var")]
    return F.batch_norm(by_type, *(part.clone() for part in statistics), training=training).movedim(1, 3)


def _heinsen_2019(meta, arrays):
    parameters = {name.removeprefix("param/"): array for name, array in arrays.items() if name.startswith("param/")}
    inputs, outputs = meta["capsules_in"], meta["capsules_out"]
    weight, bias, use = parameters["W"], parameters["B"], parameters["beta_use"]
    if not meta["fixed_outputs"]:
        steps = torch.linspace(-1, 1, outputs, dtype=torch.float64)[:, None, None]
        bias = bias + steps * parameters["B_brk"]
        use = use.expand(-1, outputs)
    ignore = parameters.get("beta_ign", use).expand(-1, outputs)
    weight = weight.expand(-1, outputs, -1, -1)
    assert inputs == arrays["in/a"].shape[1]
    score, mean, variance = heinsen_2019_routing(
        arrays["in/a"],
        arrays["in/mu"],
        weight,
        bias,
        use,
        ignore,
        iterations=meta["iterations"],
        density=meta["p_model"],
    )
    return {"a": score, "mu": mean, "sig2": variance}


_NAMES = ("W_A", "B_A", "W_F1", "W_F2", "B_F2", "W_G1", "W_G2", "B_G2", "W_S", "B_S")


def _heinsen_2022(meta, arrays):
    if not meta.get("stack"):
        out, credit = _one_heinsen_2022(arrays["in/x"], meta, arrays, meta["fixed_inputs"], "")
        return {"x": out, "phi": credit} if "out/phi" in arrays else {"x": out}
    value, credits = arrays["in/x"], []
    for number, layer in enumerate(meta["layers"]):
        value, credit = _one_heinsen_2022(value, meta, arrays, layer["fixed_inputs"], f"{number}.")
        credits.append(credit)
    named = {f"phi{number}": credit for number, credit in enumerate(credits)}
    return {"x": value, **named, "credit": end_to_end_credit(credits, of_sample=False)}


def _one_heinsen_2022(value, meta, arrays, fixed, prefix):
    weights = VectorRoutingWeights(*(arrays[f"param/{prefix}{name}"] for name in _NAMES))
    betas = []
    for part in ("use", "ign"):
        if fixed:
            betas.append(arrays[f"param/{prefix}beta_{part}"])
        else:
            dense = [arrays[f"param/{prefix}compute_beta_{part}.{kind}"] for kind in ("weight", "bias")]
            betas.append(F.linear(value, *dense))
    mask = arrays.get("in/mask")
    mask = None if mask is None else torch.as_tensor(mask)
    options = {"iterations": meta["iterations"], "normalize": meta["normalize"], "mask": mask}
    return heinsen_2022_routing(value, weights, *betas, **options)


METHODS = {
    "self_routing": _self_routing,
    "dynamic_conv": _dynamic,
    "em_conv": _em_of_hahn,
    "idpa": _attention,
    "vb": _variational_bayes,
    "vb_primary": _variational_bayes_primary,
    "heinsen1": _heinsen_2019,
    "heinsen2": _heinsen_2022,
}

# Files that do not say their method: by the longest of these that their names begin with.
BY_NAME = {
    **em_layers.BY_NAME,
    **hvc_layers.BY_NAME,
    **peer_layers.BY_NAME,
    "em_conv": _em_of_gritzman,
    "em_class": _em_class_of_gritzman,
    **deepcaps_layers.BY_NAME,
    **efficient_layers.BY_NAME,
    **sequence_layers.ADAPTERS,
}
