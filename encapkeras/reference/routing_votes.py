"""Routing the usual way, with the tensor of all votes: one einsum, then matrix products along it.

The baseline of `encapkeras bench routing`, written as a careful engineer would: votes lie so that both products of an
iteration run along memory, densities are logarithms, nothing is copied without need.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, I = N * P input capsules, J output
capsules, E their dimension.
"""

from __future__ import annotations

import math

import torch

EPSILON = 2.220446049250313e-16
VARIANCE_FLOOR = 1e-12


def votes(capsules_BPND: torch.Tensor, weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """Return `vote[b, j, i] = W[n, j] @ u[b, p, n] + bias[n, j]`, `(B, J, I, E)`, with i = (n, p)."""
    vote_BJNPE = torch.einsum("bpnd,njed->bjnpe", capsules_BPND, weight_NJED)
    if bias_NJE is not None:
        vote_BJNPE = vote_BJNPE + bias_NJE.transpose(0, 1).unsqueeze(2)
    vote_BJIE: torch.Tensor = vote_BJNPE.flatten(2, 3)
    return vote_BJIE


def squash(capsules: torch.Tensor) -> torch.Tensor:
    """Return `|s|^2 / (1 + |s|^2) * s / |s|` along the last axis."""
    length: torch.Tensor = torch.linalg.vector_norm(capsules, dim=-1, keepdim=True)
    return capsules * (length / (1 + length**2))


def dynamic_routing(
    capsules_BPND: torch.Tensor,
    weight_NJED: torch.Tensor,
    bias_NJE: torch.Tensor | None = None,
    *,
    iterations: int = 3,
    softmax_over: str = "inputs",
    output_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run dynamic routing (Sabour et al. 2017, procedure 1); return capsules `(B, J, E)`."""
    vote_BJIE = votes(capsules_BPND, weight_NJED, bias_NJE)
    axis = 2 if softmax_over == "inputs" else 1
    logit_BJI = torch.zeros(vote_BJIE.shape[:3], dtype=vote_BJIE.dtype, device=vote_BJIE.device)
    for iteration in range(iterations):
        coupling_BJI = logit_BJI.softmax(axis)
        sum_BJE = (coupling_BJI.unsqueeze(2) @ vote_BJIE).squeeze(2)
        output_BJE = squash(sum_BJE if output_bias is None else sum_BJE + output_bias)
        if iteration < iterations - 1:
            logit_BJI = logit_BJI + (vote_BJIE @ output_BJE.unsqueeze(3)).squeeze(3)
    return output_BJE


def value_range(values: torch.Tensor) -> torch.Tensor:
    """Return `10 (x - min) / (max - min) - 5` over the output capsules, axis 1; 0 where all are equal."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return torch.where(high > low, 10 * (values - low) / torch.where(high > low, high - low, 1) - 5, 0)


def em_routing(
    capsules_BPND: torch.Tensor,
    weight_NJED: torch.Tensor,
    bias_NJE: torch.Tensor | None,
    activations_BPN: torch.Tensor | None,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    *,
    iterations: int = 3,
    normalize_distances: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EM routing (Hinton et al. 2018, procedure 1, with the normalizations of the encapsulation paper's code)."""
    vote_BJIE = votes(capsules_BPND, weight_NJED, bias_NJE)
    share_BJI = torch.full(
        vote_BJIE.shape[:3], 1 / weight_NJED.shape[1], dtype=vote_BJIE.dtype, device=vote_BJIE.device
    )
    active_B1I = None if activations_BPN is None else activations_BPN.transpose(1, 2).flatten(1).unsqueeze(1)
    for iteration in range(iterations):
        if active_B1I is not None:
            share_BJI = share_BJI * active_B1I
        amount_BJ1 = share_BJI.sum(2, keepdim=True)
        weight_BJ1I = (share_BJI / (amount_BJ1 + EPSILON)).unsqueeze(2)
        mean_BJ1E = weight_BJ1I @ vote_BJIE
        square_BJIE = (vote_BJIE - mean_BJ1E) ** 2
        variance_BJE = (weight_BJ1I @ square_BJIE).squeeze(2).clamp_min(VARIANCE_FLOOR)
        cost_BJ = ((variance_BJE.log() / 2 + beta_v_J[:, None]) * amount_BJ1).sum(2)
        chance_BJ = (1 + iteration) * (beta_a_J - value_range(cost_BJ))
        if iteration < iterations - 1:
            precision_BJE = 1 / (2 * variance_BJE + EPSILON)
            distance_BJI = (square_BJIE @ precision_BJE.unsqueeze(3)).squeeze(3)
            if normalize_distances:
                distance_BJI = value_range(distance_BJI)
            divisor_BJ = (2 * math.pi * variance_BJE).log().sum(2) / 2
            divisor_BJ = torch.logaddexp(divisor_BJ, torch.full_like(divisor_BJ, math.log(EPSILON)))
            prior_BJ = torch.nn.functional.logsigmoid(chance_BJ) - divisor_BJ
            share_BJI = (prior_BJ.unsqueeze(2) - distance_BJI).softmax(1)
    return mean_BJ1E.squeeze(2), chance_BJ.sigmoid()
