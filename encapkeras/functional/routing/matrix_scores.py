"""Heinsen's routing of matrices with scores (2019)."""

from __future__ import annotations

import functools
import torch
from torch.nn import functional as F

from encapkeras.functional.routing.vote_gaussians import Sums, distance, gaussian, weighted_sums
from encapkeras.functional.routing.window_votes import as_poses, by_rows, votes
from encapkeras.functional.routing.windows import Tensors, Windows, sum_children
from encapkeras.functional.torch_support.precision import full_precision

EPSILON = 1e-5


def heinsen_2019(scores, matrices, weight, bias, beta_use, beta_ignore, *, iterations=3, density="gaussian"):
    """scores (B, I), matrices (B, I, C, D), weight (I, J, D, E), bias (I, J, C, E), betas (I, J)."""
    with full_precision(scores, matrices, weight) as wide:
        inputs, outputs = matrices.shape[1], beta_use.shape[-1]
        windows = Windows((1, 1))
        expand = lambda x: wide(x).expand(inputs, outputs, *x.shape[2:]).unsqueeze(0)
        child = wide(matrices).flatten(2)[:, None, None]
        active = wide(scores).sigmoid()[:, None, None]
        weights = [expand(weight), expand(bias), expand(beta_use), expand(beta_ignore)]
        rows = matrices.shape[2]; columns = weight.shape[3]
        count = outputs * rows * columns
        center = child.new_zeros(len(child), 1, 1, rows, outputs, columns)
        uniform = active / outputs
        step = functools.partial(_contribution, density=None)
        sums = sum_children(step, windows, count, [child, active], weights, [center])
        for iteration in range(iterations):
            found = gaussian(Sums(*sums[:3]), center, EPSILON)
            score, variance = sums[3], found.variance_MAJC + EPSILON
            if iteration == iterations - 1:
                break
            center = found.mean_MAJC.detach()
            if density == "gaussian":
                factor, constant = -0.5 / variance, F.logsigmoid(score) - variance.log().sum((-3, -1)) / 2
            else:
                factor, constant = torch.full_like(variance, -1.0), F.logsigmoid(score)
            step = functools.partial(_contribution, density=density)
            sums = sum_children(step, windows, count, [child, active], weights, [center, found.mean_MAJC, factor, constant])
        return score[:, 0, 0], as_poses(found.mean_MAJC)[:, 0, 0].unflatten(-1, (rows, columns)), as_poses(variance)[:, 0, 0].unflatten(-1, (rows, columns))


def _contribution(children: Tensors, weights: Tensors, parents: Tensors, *, density) -> Tensors:
    child, active = children
    weight, bias, use, ignore = weights
    vote = votes(child, weight, "matrix") + bias.transpose(1, 2).unsqueeze(1)
    if density is None:
        share = (active / weight.shape[1]).unsqueeze(2).expand(-1, -1, weight.shape[1])
    else:
        _, mean, factor, constant = parents
        away = distance(vote, mean, factor)
        if density == "skm":
            away = away.log_softmax(2)
        share = (constant + away).softmax(2) * active.unsqueeze(2)
    left = active.unsqueeze(2) - share
    score = (use.unsqueeze(1) * share - ignore.unsqueeze(1) * left).sum(0)
    return (*weighted_sums(share, vote, parents[0]), score)
