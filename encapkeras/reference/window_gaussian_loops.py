"""Routings in windows whose parents are Gaussians of the votes, literally as in the formulas.

The words are those of `window_routing_loops`: parents j, children i, edges (j, i).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from encapkeras.reference.routing_loops import total
from encapkeras.reference.window_routing_loops import Edge, OfEdges, Step, Windows, dot, of_places, softmax, votes


def window_em_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    beta_v: torch.Tensor,
    beta_a: torch.Tensor,
    *,
    iterations: int = 3,
    competition: str = "child",
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "matrix",
    options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EM routing (Hinton et al. 2018, procedure 1), in windows, with `EmOptions`."""
    windows = Windows(capsules, weight, strides, padding)
    vote, active = votes(windows, capsules, weight, pose), of_places(activations.unsqueeze(-1))
    rivals = windows.rivals(competition)
    share = {}
    for group in rivals:
        first = 1 if options.initial == "one" else 1 / (len(group) + options.epsilon)
        share.update({edge: torch.full_like(vote[edge][:, :1], first) for edge in group})
    factor = 100 * weight.shape[3] / math.prod(weight.shape[:3]) if options.normalize_cost else 1
    for t in range(1, iterations + 1):
        mean, variance, chance, density = {}, {}, {}, {}
        for j, children in windows.children.items():
            r = {i: share[j, i] * active[i] for i in children}
            amount = total(list(r.values()))
            mean[j] = total([r[i] * vote[j, i] for i in children]) / (amount + options.epsilon)
            square = total([r[i] * (vote[j, i] - mean[j]) ** 2 for i in children])
            variance[j] = square / (amount + options.epsilon) + options.epsilon
            cost = factor * amount * (beta_v[j[2]] + variance[j].log() / 2).sum(-1, keepdim=True)
            chance[j] = torch.sigmoid(options.final_lambda * (1 - 0.95**t) * (beta_a[j[2]] - cost))
        if t == iterations:
            break
        for j, i in vote:
            terms = (vote[j, i] - mean[j]) ** 2 / variance[j] + (2 * math.pi * variance[j]).log()
            density[j, i] = (chance[j] + options.activation_floor).log() - terms.sum(-1, keepdim=True) / 2
        fills = options.fillers and competition == "child"
        share = softmax_with_fillers(density, rivals, len(mean)) if fills else softmax(density, rivals)
    return windows.map(mean), windows.map(chance)[..., 0]


def softmax_with_fillers(density: OfEdges, groups: list[list[Edge]], parents: int) -> OfEdges:
    """Return the softmax of each group, where parents that the child does not feed have the lowest log density."""
    low = torch.stack(list(density.values())).amin().clamp_max(-100)
    share: OfEdges = {}
    for group in groups:
        values = [density[edge] for edge in group]
        values += [low.expand_as(values[0])] * (parents - len(group))
        share.update(zip(group, torch.stack(values).softmax(0), strict=False))
    return share


def variational_bayes_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    *,
    iterations: int = 3,
    covariance: str = "diagonal",
    density_floor: float = 1e-11,
    offsets: torch.Tensor | None = None,
    parent_offsets: torch.Tensor | None = None,
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "matrix",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variational-Bayes routing (De Sousa Ribeiro et al. 2020)."""
    windows = Windows(capsules, weight, strides, padding)
    vote, active = votes(windows, capsules, weight, pose), of_places(activations.unsqueeze(-1))
    for j, i in vote:
        if offsets is not None:
            vote[j, i] = vote[j, i] + offsets[windows.offset[j, i]]
        if parent_offsets is not None:
            vote[j, i] = vote[j, i] + parent_offsets[j[:2]]
    share = {edge: torch.full_like(vote[edge][:, :1], 1 / windows.outputs) for edge in vote}
    size = next(iter(vote.values())).shape[1]
    for t in range(iterations):
        r = {(j, i): share[j, i] * active[i] for j, i in share}
        amount = {j: total([r[j, i] for i in children]) for j, children in windows.children.items()}
        mean, scatter, log_pi, log_lambda, density = {}, {}, {}, {}, {}
        for j, children in windows.children.items():
            mu = total([r[j, i] * vote[j, i] for i in children]) / amount[j]
            mean[j] = amount[j] * mu / (1 + amount[j])
            deviations = [(r[j, i], vote[j, i] - mu) for i in children] + [(amount[j] / (1 + amount[j]), mu)]
            scatter[j] = torch.eye(size, dtype=mu.dtype) + total(
                [factor.unsqueeze(-1) * v.unsqueeze(-1) * v.unsqueeze(-2) for factor, v in deviations]
            )
            if covariance == "diagonal":
                scatter[j] = scatter[j].diagonal(dim1=-2, dim2=-1).diag_embed()
            of_types = total([1 + amount[*j[:2], k] for k in range(windows.outputs)])
            log_pi[j] = torch.digamma(1 + amount[j]) - torch.digamma(of_types)
            log_lambda[j] = expected_log_determinant(amount[j], scatter[j])
        if t == iterations - 1:
            break
        for j, i in vote:
            away = vote[j, i] - mean[j]
            expected = (size + 1 + amount[j]) * dot(away, torch.linalg.solve(scatter[j], away)) + size / (1 + amount[j])
            density[j, i] = (log_pi[j] + (log_lambda[j] - size * math.log(2 * math.pi) - expected) / 2).exp()
        for group in windows.rivals("child"):
            of_child = total([density[edge] for edge in group]).clamp_min(density_floor)
            share.update({edge: density[edge] / of_child for edge in group})
    scores = {j: -log_pi[j].exp() * (size * math.log(2 * math.pi * math.e) - log_lambda[j]) / 2 for j in mean}
    return windows.map(mean), windows.map(scores)[..., 0]


def expected_log_determinant(amount: torch.Tensor, scatter: torch.Tensor) -> torch.Tensor:
    """Return the expectation of `log |Lambda|`, with Lambda from a Wishart distribution."""
    size = scatter.shape[-1]
    digammas = total([torch.digamma((size + 1 + amount - d) / 2) for d in range(size)])
    return digammas + size * math.log(2) - torch.logdet(scatter).unsqueeze(-1)
