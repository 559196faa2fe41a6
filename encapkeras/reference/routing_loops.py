"""Routing literally as in the formulas: a loop over output capsules j and input capsules i. The oracle of the tests.

Without logarithms of densities or floors, so that it is defined only where the formulas are. Input capsules are
ordered type by type, `i = (n, p)`; shapes are those of `encapkeras.functional`.
"""

from __future__ import annotations

import math

import torch

EPSILON = 2.220446049250313e-16


def votes(capsules: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> list[list[torch.Tensor]]:
    """Return `vote[j][i] = W[n, j] @ u[n, p] + bias[n, j]` of one sample."""
    positions, types, _ = capsules.shape
    zero = torch.zeros(weight.shape[2], dtype=weight.dtype)
    return [
        [
            weight[n, j] @ capsules[p, n] + (zero if bias is None else bias[n, j])
            for n in range(types)
            for p in range(positions)
        ]
        for j in range(weight.shape[1])
    ]


def total(terms: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of all terms."""
    return torch.stack(terms).sum(0)


def squash(capsule: torch.Tensor) -> torch.Tensor:
    """Return `|s|^2 / (1 + |s|^2) * s / |s|` of one capsule that is not zero."""
    length: torch.Tensor = torch.linalg.vector_norm(capsule)
    return length**2 / (1 + length**2) * capsule / length


def dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    iterations: int,
    softmax_over: str,
    output_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run dynamic routing (Sabour et al. 2017, procedure 1), sample by sample; return capsules `(B, J, E)`."""
    results = []
    for sample in capsules:
        vote = votes(sample, weight, bias)
        outputs, inputs = range(len(vote)), range(len(vote[0]))
        logit = [[torch.zeros((), dtype=weight.dtype) for _ in inputs] for _ in outputs]
        for iteration in range(iterations):
            exp = [[logit[j][i].exp() for i in inputs] for j in outputs]
            routed = []
            for j in outputs:
                alternatives = [exp[j] if softmax_over == "inputs" else [exp[k][i] for k in outputs] for i in inputs]
                added = [] if output_bias is None else [output_bias[j]]
                routed.append(squash(total([exp[j][i] / total(alternatives[i]) * vote[j][i] for i in inputs] + added)))
            if iteration < iterations - 1:
                logit = [[logit[j][i] + vote[j][i] @ routed[j] for i in inputs] for j in outputs]
        results.append(torch.stack(routed))
    return torch.stack(results)


def value_range(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return `10 (x - min) / (max - min) - 5`."""
    low, high = min(values), max(values)
    return [10 * (value - low) / (high - low) - 5 if high > low else value * 0 for value in values]


def em_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activations: torch.Tensor | None,
    beta_v: torch.Tensor,
    beta_a: torch.Tensor,
    iterations: int,
    normalize_distances: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EM routing (Hinton et al. 2018, procedure 1, with the normalizations of the encapsulation paper's code)."""
    means, chances = [], []
    for b, sample in enumerate(capsules):
        vote = votes(sample, weight, bias)
        outputs, inputs = range(len(vote)), range(len(vote[0]))
        active = [torch.ones((), dtype=weight.dtype) for _ in inputs]
        if activations is not None:
            active = list(activations[b].T.reshape(-1))
        share = [[torch.full((), 1 / len(vote), dtype=weight.dtype) for _ in inputs] for _ in outputs]
        for iteration in range(iterations):
            mean, variance, cost = [], [], []
            for j in outputs:
                r = [share[j][i] * active[i] for i in inputs]
                amount = total(r)
                mean.append(total([r[i] * vote[j][i] for i in inputs]) / (amount + EPSILON))
                variance.append(total([r[i] * (vote[j][i] - mean[j]) ** 2 for i in inputs]) / (amount + EPSILON))
                cost.append(((variance[j].sqrt().log() + beta_v[j]) * amount).sum())
            ranged = value_range(cost)
            chance = [torch.sigmoid((1 + iteration) * (beta_a[j] - ranged[j])) for j in outputs]
            if iteration == iterations - 1:
                break
            for i in inputs:
                distance = [((vote[j][i] - mean[j]) ** 2 / (2 * variance[j] + EPSILON)).sum() for j in outputs]
                if normalize_distances:
                    distance = value_range(distance)
                density = [
                    (-distance[j]).exp() / ((2 * math.pi * variance[j]).prod().sqrt() + EPSILON) for j in outputs
                ]
                all_of_i = total([density[j] * chance[j] for j in outputs])
                for j in outputs:
                    share[j][i] = density[j] * chance[j] / all_of_i
        means.append(torch.stack(mean))
        chances.append(torch.stack(chance))
    return torch.stack(means), torch.stack(chances)
