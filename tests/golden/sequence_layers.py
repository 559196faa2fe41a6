"""Calls our routings of sequences with the numbers of golden files: MIND's layers, and those of ComiRec."""

import torch

from encapkeras.functional import interest_attention, interest_routing, label_attention


def mind(meta, arrays):
    """B2I: one matrix, initial logits given; the number of interests by length where the file has it."""
    steps = torch.arange(arrays["in/x"].shape[1])
    out = interest_routing(
        arrays["in/x"],
        arrays["param/S"],
        logits=arrays["in/logits0"].flatten(2),
        mask=steps < arrays["in/length"].reshape(-1, 1),
        count=arrays["in/interests"].flatten() if "in/interests" in arrays else None,
        iterations=meta["args"]["iterations"],
    )
    return {"v": out}


def mind_label_attention(meta, arrays):
    """Label-aware attention by several powers, as the file's outputs are named."""
    keys, query = arrays["in/keys"], arrays["in/query"].squeeze(1)
    there = torch.arange(keys.shape[1]) < arrays["in/interests"].reshape(-1, 1)
    outputs = {}
    for name in meta["outputs"]:
        power = float(name.partition("_")[0].removeprefix("pow"))
        mask = there if name.endswith("_interests") else None
        outputs[name] = label_attention(keys, query, power=power, keep_sign=False, mask=mask)
    return outputs


def comirec(meta, arrays):
    """ComiRec's capsules: a matrix for all, for each interest, or for each step and interest."""
    options, out_dim = meta["args"], arrays["out/v"].shape[2]
    logits = arrays["in/logits0"].mT if "in/logits0" in arrays else None
    if "param/weights" in arrays:
        weight, bias = arrays["param/weights"][0].unflatten(1, (-1, out_dim)).mT, None
    else:
        weight, bias = arrays["param/kernel"], arrays["param/bias"]
        if logits is None:
            weight = weight.unflatten(1, (-1, out_dim)).movedim(1, 0)
            bias = bias.unflatten(0, (-1, out_dim))
    iterations = options["iterations"]
    out = interest_routing(
        arrays["in/x"], weight, bias, logits=logits, mask=arrays["in/mask"] > 0, iterations=iterations
    )
    if options["relu_layer"]:
        out = torch.relu(out @ arrays["param/proj/kernel"] + arrays["param/proj/bias"])
    return {"v": out, "readout": label_attention(out, arrays["in/item"], hard=options["hard_readout"])}


def comirec_attention(meta, arrays):
    """ComiRec SA, read out by the interest that agrees most."""
    dense = [arrays[f"param/dense{number}/{part}"] for number in (1, 2) for part in ("kernel", "bias")]
    positions = arrays["param/position_embedding"][0] if meta["args"]["add_pos"] else None
    out = interest_attention(arrays["in/x"], *dense, positions=positions, mask=arrays["in/mask"] > 0)
    hard = meta["args"].get("hard_readout", True)
    return {"v": out, "readout": label_attention(out, arrays["in/item"], hard=hard)}


ADAPTERS = {
    "mind_b2i": mind,
    "mind_label_attention": mind_label_attention,
    "comirec": comirec,
    "comirec_sa": comirec_attention,
}
