"""Inverted dot-product attention routing (Tsai, Srivastava, Goh and Salakhutdinov 2020)."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional as F

from encapkeras.functional.routing.window_votes import Pose, agreement, as_poses, by_rows, gather, rows_of, votes
from encapkeras.functional.routing.windows import Tensors, Windows, sum_children
from encapkeras.functional.torch_support.precision import full_precision


def inverted_attention_pass(
    capsules: torch.Tensor,
    parents: torch.Tensor | None,
    weight: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    windows: Windows,
    *,
    pose: Pose = "vector",
) -> torch.Tensor:
    """One pass."""
    with full_precision(capsules, weight) as wide:
        rows = rows_of(capsules.shape[4], weight, pose)
        outputs, dim = weight.shape[3], len(scale)
        if parents is None:
            contribution = functools.partial(_uniform, pose=pose)
            above = []
        else:
            contribution = functools.partial(_routed, pose=pose)
            above = [by_rows(wide(parents) / math.sqrt(dim), rows)]
        (sum_BPQAJC,) = sum_children(
            contribution, windows, outputs * dim, [wide(capsules)], [wide(weight).flatten(0, 1)], above
        )
        value = as_poses(sum_BPQAJC)
        if dim > 1:
            value = F.layer_norm(value, (dim,), wide(scale), wide(offset), 1e-5)
        return value.to(capsules.dtype)


def inverted_attention_routing(capsules, weight, scale, offset, windows, *, iterations, pose="vector"):
    value = None
    for _ in range(iterations):
        value = inverted_attention_pass(capsules, value, weight, scale, offset, windows, pose=pose)
    return value


def _uniform(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    (child_nMD,), (weight,) = children, weights
    return (votes(child_nMD, weight, pose).sum(0) / weight.shape[1],)


def _routed(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    vote_nMAJC = votes(children[0], weights[0], pose)
    share_nMJ = agreement(vote_nMAJC, parents[0]).softmax(2)
    return (gather(share_nMJ, vote_nMAJC),)
