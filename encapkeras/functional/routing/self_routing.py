"""Self-routing (Hahn, Pyeon and Kim 2019): each child decides by itself, from its pose alone, which parents it supports.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, D their dimension, O window
offsets, J parent types, E their dimension; n, M, A and C as in `window_votes`.
"""

from __future__ import annotations

import functools

import torch

from encapkeras.functional.routing.window_votes import Pose, as_poses, gather, rows_of, votes
from encapkeras.functional.routing.windows import Tensors, Windows, sum_children
from encapkeras.functional.torch_support.precision import full_precision


def self_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor | None,
    routing_weight: torch.Tensor,
    routing_bias: torch.Tensor,
    windows: Windows,
    *,
    pose: Pose = "vector",
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Route capsules by themselves."""
    tensors = [tensor for tensor in (weight, routing_weight, routing_bias) if tensor is not None]
    with full_precision(capsules, activations, *tensors) as wide:
        weights = [wide(tensor).flatten(0, 1) for tensor in tensors]
        outputs = routing_weight.shape[3]
        rows = 1 if weight is None else rows_of(capsules.shape[4], weight, pose)
        dim = 1 if weight is None else weight[0, 0, 0, 0].numel() // (capsules.shape[4] if pose == "vector" else 1)
        contribution = functools.partial(_contribution, pose=pose, has_poses=weight is not None)
        sums = sum_children(contribution, windows, outputs * dim, [wide(capsules), wide(activations)], weights)
        support_BPQJ = sums[0].clamp_min(torch.finfo(sums[0].dtype).tiny)
        out_activations = support_BPQJ / support_BPQJ.sum(-1, keepdim=True)
        if weight is None:
            return None, out_activations.to(capsules.dtype)
        poses = as_poses(sums[1] / support_BPQJ[..., None, :, None])
        return poses.to(capsules.dtype), out_activations.to(capsules.dtype)


def _contribution(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose, has_poses: bool) -> Tensors:
    child_nMD, activation_nM = children
    routing_nJD, bias_nJ = weights[-2:]
    logit_nMJ = torch.baddbmm(bias_nJ.unsqueeze(1), child_nMD, routing_nJD.mT)
    share_nMJ = logit_nMJ.softmax(2) * activation_nM.unsqueeze(2)
    support_MJ = share_nMJ.sum(0)
    if not has_poses:
        return (support_MJ,)
    return support_MJ, gather(share_nMJ, votes(child_nMD, weights[0], pose))
