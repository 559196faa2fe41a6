"""EM routing in windows (Hinton et al. 2018; Gritzman 2019; and as Hahn et al. 2019 have it).

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, D their dimension, O window
offsets, J parent types, E their dimension; n, M, A and C as in `window_votes`.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.functional.routing.vote_gaussians import Gaussian, Sums, distance, gaussian, weighted_sums
from encapkeras.functional.routing.window_votes import Pose, as_poses, rows_of, votes
from encapkeras.functional.routing.windows import Tensors, Windows, each_child, fold_logsumexp, sum_children
from encapkeras.functional.torch_support.precision import full_precision


class _Options(NamedTuple):
    pose: Pose
    competition: str
    initial: str
    final_lambda: float
    epsilon: float
    variance_floor: float
    cost_scale: float | None
    log_floor: float
    filler: bool


def window_em_routing(
    capsules, activations, weight, beta_v, beta_a, windows, *, iterations=3, pose="matrix", competition="child",
    initial="uniform", final_lambda=0.01, epsilon=1e-9, variance_floor=1e-9, cost_scale=None, log_floor=1e-9, filler=False, bias=None,
):
    """EM routing in windows."""
    with full_precision(capsules, activations, weight) as wide:
        outputs = weight.shape[3]
        rows = rows_of(capsules.shape[4], weight, pose)
        dim = rows * (weight.shape[5] if pose == "matrix" else weight.shape[4] )
        child, active, matrices = wide(capsules), wide(activations), wide(weight).flatten(0, 1)
        height, width = capsules.shape[1:3]
        size = windows.output_size(height, width)
        share = _first_share(active, windows, outputs, initial, size)
        below = [matrices]
        if bias is not None:
            below.append(wide(bias).view(-1, 1, rows, 1, dim // rows).expand(-1, matrices.shape[1], -1, -1, -1))
        count = _parents_of(active, windows, size)
        maps, votes_of_child = [child, active, share], outputs * dim
        (amount, first) = sum_children(functools.partial(_mean, pose=pose), windows, votes_of_child, [child.detach(), active.detach(), share], [matrices.detach()])
        center = first / amount.clamp_min(torch.finfo(first.dtype).tiny)[..., None, :, None]
        sums = Sums(*sum_children(functools.partial(_first, pose=pose), windows, votes_of_child, maps, below, [center]))
        for iteration in range(iterations):
            found = gaussian(sums, center, epsilon)
            variance = found.variance_MAJC + variance_floor
            log_variance = variance.log().sum((-3, -1)) / 2
            scale = 1.0 if cost_scale is None else cost_scale
            cost = (dim * wide(beta_v) + log_variance) * found.amount_MJ * scale
            chance = final_lambda * (1 - 0.95 ** (iteration + 1)) * (wide(beta_a) - cost)
            if iteration == iterations - 1:
                break
            prior = F.logsigmoid(chance) if log_floor == 0 else (chance.sigmoid() + log_floor).log()
            center = found.mean_MAJC.detach()
            above = [prior - log_variance, found.mean_MAJC, -0.5 / variance, center]
            if competition == "child":
                value, lowest = each_child(functools.partial(_log_total, pose=pose), windows, votes_of_child, [child], below, above)
                total = fold_logsumexp(value, windows, height, width)
                if filler:
                    constant = dim * math.log(2 * math.pi) / 2  # that all densities here lack
                    least = (lowest.amin() - constant).clamp_max(-100.0) + constant
                    total = torch.logaddexp(total, least + ((size[0] * size[1] - count) * outputs).log())
                total = torch.where(total.isinf(), 0.0, total)
                step, kids = _expect_of_child, [child, active, total]
            else:
                step, kids = _expect_of_position, [child, active]
            sums = Sums(*sum_children(functools.partial(step, pose=pose), windows, votes_of_child, kids, below, above))
        return as_poses(found.mean_MAJC).to(capsules.dtype), chance.sigmoid().to(capsules.dtype)


def _first_share(active, windows, outputs, initial, size):
    if initial == "one":
        return torch.ones_like(active[:1]).expand_as(active)
    if initial == "outputs":
        return torch.full_like(active[:1], 1 / outputs).expand_as(active)
    return (1 / (_parents_of(active, windows, size) * outputs + 1e-9)).expand_as(active)


def _parents_of(active, windows, size):
    count = torch.zeros_like(windows.pad(active[:1]))
    for offset in windows.offsets():
        count[:, *windows.at(offset, size)] += 1
    top, left = windows.padding
    return count[:, top : top + active.shape[1], left : left + active.shape[2]]


def _mean(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    child, active, share = children
    weight_nM1 = (active * share).unsqueeze(2)
    vote = votes(child * weight_nM1, weights[0], pose)
    return weight_nM1.sum(0).expand(-1, vote.shape[3]), vote.sum(0)


def _first(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    child, active, share = children
    vote = _votes(children, weights, pose)
    return weighted_sums((active * share).unsqueeze(2).expand(-1, -1, vote.shape[3]), vote, parents[0])


def _log_density(vote_nMAJC: torch.Tensor, parents: Tensors) -> torch.Tensor:
    constant_MJ, mean_MAJC, factor_MAJC = parents[:3]
    return constant_MJ + distance(vote_nMAJC, mean_MAJC, factor_MAJC)


def _log_total(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    density = _log_density(_votes(children, weights, pose), parents)
    return density.logsumexp(2), density.amin(2)


def _votes(children, weights, pose):
    vote = votes(children[0], weights[0], pose)
    return vote if len(weights) == 1 else vote + weights[1].unsqueeze(1)


def _expect_of_position(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    vote_nMAJC = _votes(children, weights, pose)
    share_nMJ = _log_density(vote_nMAJC, parents).softmax(2) * children[1].unsqueeze(2)
    return weighted_sums(share_nMJ, vote_nMAJC, parents[3])


def _expect_of_child(children: Tensors, weights: Tensors, parents: Tensors, *, pose: Pose) -> Tensors:
    vote_nMAJC = _votes(children, weights, pose)
    share_nMJ = (_log_density(vote_nMAJC, parents) - children[2].unsqueeze(2)).exp() * children[1].unsqueeze(2)
    return weighted_sums(share_nMJ, vote_nMAJC, parents[3])
