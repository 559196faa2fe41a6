"""Dynamic routing in windows."""

from __future__ import annotations

import functools
import torch

from encapkeras.functional.routing.window_votes import Pose, agreement, as_poses, by_rows, gather, rows_of, votes
from encapkeras.functional.routing.windows import Tensors, Windows, each_child, fold_logsumexp, sum_children
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import full_precision


def window_dynamic_routing(capsules, weight, windows, *, iterations=3, pose="vector"):
    with full_precision(capsules, weight) as wide:
        rows = rows_of(capsules.shape[4], weight, pose)
        outputs = weight.shape[3]
        dim = rows * (weight.shape[5] if pose == "matrix" else weight.shape[4])
        child, matrices = [wide(capsules)], [wide(weight).flatten(0, 1)]
        (total,) = sum_children(functools.partial(_uniform, pose=pose), windows, outputs * dim, child, matrices)
        value = squash(as_poses(total))
        agreed = value
        for _ in range(iterations - 1):
            (total,) = sum_children(functools.partial(_routed, pose=pose), windows, outputs * dim, child, matrices, [by_rows(agreed, rows)])
            value = squash(as_poses(total))
            agreed = agreed + value
        return value.to(capsules.dtype)


def _uniform(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    (child_nMD,), (weight,) = children, weights
    return (votes(child_nMD, weight, pose).sum(0) / weight.shape[1],)


def _routed(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    vote_nMAJC = votes(children[0], weights[0], pose)
    share_nMJ = agreement(vote_nMAJC, parents[0]).softmax(2)
    return (gather(share_nMJ, vote_nMAJC),)
