"""Variational-Bayes routing (De Sousa Ribeiro, Leontidis and Kollias 2020)."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional as F

from encapkeras.functional.routing.vote_gaussians import Sums, distance, gaussian, weighted_sums
from encapkeras.functional.routing.window_votes import Pose, as_poses, rows_of, votes
from encapkeras.functional.routing.windows import Tensors, Windows, each_child, fold_logsumexp, sum_children
from encapkeras.functional.torch_support.precision import full_precision


def variational_bayes_routing(capsules, activations, weight, windows, *, iterations=3, covariance="diagonal", density_floor=1e-11, bias=None, shift=None):
    """Return `m` and the raw activation `-exp(E[log pi]) H`. bias: (O, D) added to the votes of an offset."""
    with full_precision(capsules, activations, weight) as wide:
        outputs, side = weight.shape[3], weight.shape[4]
        dim = side * side
        child, active, matrices = wide(capsules), wide(activations), wide(weight).flatten(0, 1)
        height, width = capsules.shape[1:3]
        step = functools.partial
        options = {"full": covariance == "full"}
        size = windows.output_size(height, width)
        if bias is None:
            bias = child.new_zeros(len(matrices), dim)
        bias = wide(bias).view(-1, 1, side, 1, side).expand(-1, matrices.shape[1], -1, -1, -1)
        if shift is None:
            shift = child.new_zeros(1, 1, 1, dim)
        shift = wide(shift).unflatten(-1, (side, 1, side)).expand(len(child), *size, -1, -1, -1)
        count = outputs * dim
        center = shift.expand(-1, -1, -1, -1, outputs, -1)
        sums = sum_children(step(_first, **options), windows, count, [child, active], [matrices, bias], [shift, center])
        m = None
        for iteration in range(iterations):
            amount = sums[0]
            shiftm = sums[1] / amount.clamp_min(torch.finfo(amount.dtype).tiny)[..., None, :, None]
            mean = center + shiftm
            kappa, nu, alpha = 1 + amount, dim + 1 + amount, 1 + amount
            ratio = (amount / kappa)[..., None, :, None]
            m = ratio * mean
            if covariance == "full":
                flat = lambda x: as_poses(x)
                d = flat(shiftm); mu = flat(mean)
                Psi = torch.eye(dim, dtype=mean.dtype) + sums[2] - amount[..., None, None] * d[..., :, None] * d[..., None, :] + (amount / kappa)[..., None, None] * mu[..., :, None] * mu[..., None, :]
                chol = torch.linalg.cholesky(Psi)
                logdet = -2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            else:
                scatter = (sums[2] - shiftm * sums[1]).clamp_min(0)
                psi = 1 + scatter + ratio * mean * mean
                logdet = -psi.log().sum((-3, -1))
            epi = torch.digamma(alpha) - torch.digamma(alpha.sum(-1, keepdim=True))
            elam = sum(torch.digamma((nu - d) / 2) for d in range(dim)) + dim * math.log(2) + logdet
            if iteration == iterations - 1:
                break
            constant = epi + elam / 2 - dim / 2 * math.log(2 * math.pi) - dim / kappa / 2
            center = mean.detach()
            if covariance == "full":
                inv = torch.linalg.solve_triangular(chol, torch.eye(dim, dtype=mean.dtype).expand_as(chol), upper=False) * (nu / 2).sqrt()[..., None, None]
                above = [shift, center, constant, m, inv]
            else:
                above = [shift, center, constant, m, -0.5 * nu[..., None, :, None] / psi]
            (value,) = each_child(step(_log_total, **options), windows, count, [child], [matrices, bias], above)
            total = fold_logsumexp(value, windows, height, width)
            total = torch.where(total.isinf(), 0.0, total)
            if density_floor:
                total = total.clamp_min(math.log(density_floor))
            sums = sum_children(step(_expect, **options), windows, count, [child, active, total], [matrices, bias], above)
        entropy = dim / 2 * math.log(2 * math.pi * math.e) - elam / 2
        raw = -epi.exp() * entropy
        return as_poses(m), raw


def _sums(share, vote, center, full):
    if not full:
        return weighted_sums(share, vote, center)
    away = as_poses(vote - center)
    second = torch.einsum("nmj,nmjd,nmje->mjde", share, away, away)
    return share.sum(0), (share[:, :, None, :, None] * (vote - center)).sum(0), second


def _votes(children, weights, parents):
    return votes(children[0], weights[0], "matrix") + weights[1].unsqueeze(1) + parents[0]


def _first(children: Tensors, weights: Tensors, parents: Tensors, *, full) -> Tensors:
    vote = _votes(children, weights, parents)
    share = (children[1] / vote.shape[3]).unsqueeze(2).expand(-1, -1, vote.shape[3])
    return _sums(share, vote, parents[1], full)


def _log_density(vote, parents, full):
    constant, mean, factor = parents[2:5]
    if not full:
        return constant + distance(vote, mean, factor)
    away = as_poses(vote - mean)
    return constant - torch.einsum("mjde,nmje->nmjd", factor, away).square().sum(-1)


def _log_total(children, weights, parents, *, full):
    return (_log_density(_votes(children, weights, parents), parents, full).logsumexp(2),)


def _expect(children, weights, parents, *, full):
    vote = _votes(children, weights, parents)
    share = (_log_density(vote, parents, full) - children[2].unsqueeze(2)).exp() * children[1].unsqueeze(2)
    return _sums(share, vote, parents[1], full)
