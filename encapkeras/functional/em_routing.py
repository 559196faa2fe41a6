"""EM routing without votes (Hinton et al., ICLR 2018; Li et al. 2018).

Votes `w_njd . u_np + b_njd` are linear in the input capsule, so their squares are linear in the products of its
components. With the features `F = [u_a u_b (a <= b), u_a, 1]` the M-step gathers `A = sum_p R F` and contracts it with
products of weights, and the E-step makes a query of weights and variances whose product with F is the distance:
both are cross-attention from output to input capsules, the softmax being over the outputs.

Votes are first moved to where squares lose least: input capsules are taken relative to the mean of their type, and
votes relative to the mean vote of their output capsule. The formulas do not depend on either.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, K features, J output capsules, E their
dimension, X = N * (D + 1), Y = N * K, G = B * N.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError
from encapkeras.functional.attention import LOG2_E, attend_over_outputs, spread_over_outputs
from encapkeras.functional.routing_inputs import check_em, check_routing, routing_precision

EPSILON = 2.220446049250313e-16
"""The original's, in float32 too: what divisors are increased by."""

VARIANCE_FLOOR = 1e-12
"""Smallest variance of votes: equal votes have a logarithm and a gradient."""


def em_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activations: torch.Tensor | None,
    beta_v: torch.Tensor,
    beta_a: torch.Tensor,
    *,
    iterations: int = 3,
    normalize_distances: bool = False,
    density_floor: float = EPSILON,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Routes capsules by expectation maximisation: each output capsule is a Gaussian that explains some of the votes.

    `vote_ij = W[n, j] u_i + bias[n, j]` for the input capsules `i = (n, p)`; R starts at 1 / J. T times the M-step:
    `R_ij <- R_ij a_i`, `R_j = sum_i R_ij`, `mu_jd = sum_i R_ij vote_ijd / R_j`,
    `sigma_jd^2 = sum_i R_ij (vote_ijd - mu_jd)^2 / R_j`, `cost_j = sum_d (log sigma_jd + beta_v_j) R_j` and
    `a_j = sigmoid((1 + t) (beta_a_j - range(cost_j)))`, t = 0 ... T - 1, with
    `range(x) = 10 (x - min) / (max - min) - 5` over j (0 where all are equal). Between them the E-step:
    `p_ij = exp(-sum_d (vote_ijd - mu_jd)^2 / (2 sigma_jd^2)) / sqrt(prod_d 2 pi sigma_jd^2)` and
    `R_ij = p_ij a_j / sum_j p_ij a_j` (Hinton et al. 2018, procedure 1; `range` and the epsilons are the encapsulation
    paper's code). Densities are logarithms, so that none underflows; gradients flow through all iterations. Neither the
    votes nor R of all pairs ever exist.

    Args:
        capsules: Input capsules `(B, P, N, D)`: P positions of N types. Half precision is computed in float32.
        weight: Matrices of the votes `(N, J, E, D)`, shared by the positions of a type. Matrices of its own for each of
            I capsules: capsules `(B, 1, I, D)` and weight `(I, J, E, D)`.
        bias: Added to the votes, `(N, J, E)`, or None.
        activations: Weights of the input capsules `(B, P, N)`, from 0; None for 1 everywhere. An output capsule that
            nothing activates has mean 0.
        beta_v: Cost of explaining a vote, `(J,)`.
        beta_a: Threshold of the activation, `(J,)`.
        iterations: Number T of iterations, from 1.
        normalize_distances: Whether `range` over j is also applied to the exponents of the E-step.
        density_floor: Added to the density's divisor `sqrt(prod_d 2 pi sigma_jd^2)`, from 0. In high dimensions the
            default is larger than the divisor, and then decides the result, as in the original; 0 is the formula.

    Returns:
        Means `(B, J, E)` and activations `(B, J)` between 0 and 1, in the type of `capsules`.

    Raises:
        ArgumentError: `iterations` or `density_floor` has a value that it cannot have.
        ShapeError: The sizes do not fit each other.

    Example:
        >>> capsules, weight = torch.rand(2, 36, 32, 8), torch.randn(32, 10, 16, 8)
        >>> mean, activation = em_routing(capsules, weight, None, torch.rand(2, 36, 32), torch.rand(10), torch.rand(10))
        >>> mean.shape, activation.shape
        (torch.Size([2, 10, 16]), torch.Size([2, 10]))
    """
    check_routing(capsules, weight, bias, iterations)
    check_em(capsules, weight, activations, {"beta_v": beta_v, "beta_a": beta_a})
    if not 0 <= density_floor < math.inf:
        raise ArgumentError(f"density_floor must be a finite number of at least 0; received {density_floor!r}")
    outputs = weight.shape[1]
    with routing_precision(capsules) as wide:
        moments = _moments(wide(weight), None if bias is None else wide(bias), wide(capsules))
        value_BNKP = moments.feature_BNKP
        if activations is not None:
            value_BNKP = value_BNKP * wide(activations).transpose(1, 2).unsqueeze(2)
        gathered_JBY = (value_BNKP.sum(3) / outputs).flatten(1).expand(outputs, -1, -1)
        for iteration in range(iterations):
            gaussian = _gaussian(gathered_JBY, moments)
            bits_JB1 = (gaussian.variance_JBE.log() / 2 + wide(beta_v)[:, None, None]).sum(2, keepdim=True)
            cost_JB = (bits_JB1 * gaussian.amount_JB1).squeeze(2)
            chance_JB = (1 + iteration) * (wide(beta_a)[:, None] - _ranged(cost_JB))
            if iteration < iterations - 1:
                prior_JB1 = F.logsigmoid(chance_JB).unsqueeze(2) - _log_divisor(gaussian, density_floor)
                distance_JGK = _distance_query(gaussian, moments)
                gathered_JBY = _explained(distance_JGK, prior_JB1, moments, value_BNKP, normalize_distances)
        mean_BJE = gaussian.mean_JBE.transpose(0, 1)
        return mean_BJE.to(capsules.dtype), chance_JB.sigmoid().T.to(capsules.dtype)


class _Moments(NamedTuple):
    """What makes first and second moments of votes from those of capsules.

    Args:
        feature_BNKP: Products of components, then the components, then 1.
        first_JXE: Weights of the last D + 1 features: the votes.
        second_JYE: Weights of all features: the squares of the votes.
        shift_JE: What the votes of each output capsule were reduced by.
    """

    feature_BNKP: torch.Tensor
    first_JXE: torch.Tensor
    second_JYE: torch.Tensor
    shift_JE: torch.Tensor


class _Gaussian(NamedTuple):
    """An output capsule's distribution of the reduced votes, and its mean."""

    amount_JB1: torch.Tensor
    center_JBE: torch.Tensor
    variance_JBE: torch.Tensor
    mean_JBE: torch.Tensor


def _moments(weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None, capsules_BPND: torch.Tensor) -> _Moments:
    """Features and weights, of capsules relative to their type's mean and votes relative to their output's."""
    dim = weight_NJED.shape[3]
    origin_ND = capsules_BPND.detach().mean((0, 1))
    origin_vote_NJE = torch.einsum("njed,nd->nje", weight_NJED, origin_ND)
    if bias_NJE is not None:
        origin_vote_NJE = origin_vote_NJE + bias_NJE
    shift_JE = origin_vote_NJE.detach().mean(0)
    weight_JNKE = torch.cat(
        [weight_NJED.permute(1, 0, 3, 2), (origin_vote_NJE - shift_JE).transpose(0, 1).unsqueeze(2)], 2
    )
    component_BNKP = F.pad(capsules_BPND - origin_ND, (0, 1), value=1.0).permute(0, 2, 3, 1)
    pairs = torch.triu_indices(dim, dim, device=weight_NJED.device)
    with_one = torch.stack(
        [torch.arange(dim + 1, device=pairs.device), torch.full((dim + 1,), dim, device=pairs.device)]
    )
    left_K, right_K = torch.cat([pairs, with_one], 1)
    times_K1 = torch.where(left_K == right_K, 1, 2).to(weight_NJED.dtype).unsqueeze(1)  # a < b stands for b < a too
    second_JNKE = weight_JNKE[:, :, left_K] * weight_JNKE[:, :, right_K] * times_K1
    feature_BNKP = component_BNKP[:, :, left_K] * component_BNKP[:, :, right_K]
    return _Moments(feature_BNKP, weight_JNKE.flatten(1, 2), second_JNKE.flatten(1, 2), shift_JE)


def _gaussian(gathered_JBY: torch.Tensor, moments: _Moments) -> _Gaussian:
    """The M-step, from the gathered features."""
    types, features = moments.feature_BNKP.shape[1:3]
    of_votes = moments.first_JXE.shape[1] // types
    component_JBNK = gathered_JBY.unflatten(2, (types, features))[..., -of_votes:]
    amount_JB1 = component_JBNK[..., -1].sum(2, keepdim=True)
    first_JBE = component_JBNK.flatten(2) @ moments.first_JXE
    second_JBE = gathered_JBY @ moments.second_JYE
    # An output capsule that explains nothing has no gradient; 1 / EPSILON would be one of 1e15.
    inverse_JB1 = torch.where(amount_JB1 > EPSILON, 1 / (amount_JB1 + EPSILON), 0)
    center_JBE = first_JBE * inverse_JB1
    share_JB1 = amount_JB1 * inverse_JB1
    variance_JBE = second_JBE * inverse_JB1 - center_JBE * center_JBE * (2 - share_JB1)
    mean_JBE = center_JBE + moments.shift_JE.unsqueeze(1) * share_JB1
    return _Gaussian(amount_JB1, center_JBE, variance_JBE.clamp_min(VARIANCE_FLOOR), mean_JBE)


def _ranged(cost_JB: torch.Tensor) -> torch.Tensor:
    """`10 (x - min) / (max - min) - 5` over the output capsules; 0 where all are equal."""
    low_B, high_B = cost_JB.amin(0), cost_JB.amax(0)
    spread_B = high_B - low_B
    differ_B = spread_B > EPSILON
    return torch.where(differ_B, 10 * (cost_JB - low_B) / torch.where(differ_B, spread_B, 1) - 5, 0)


def _log_divisor(gaussian: _Gaussian, density_floor: float) -> torch.Tensor:
    """`log(sqrt(prod_d 2 pi sigma_d^2) + density_floor)`, `(J, B, 1)`."""
    divisor_JB1 = (2 * math.pi * gaussian.variance_JBE).log().sum(2, keepdim=True) / 2
    floor = math.log(density_floor) if density_floor else -math.inf
    return torch.logaddexp(divisor_JB1, torch.full_like(divisor_JB1, floor))


def _distance_query(gaussian: _Gaussian, moments: _Moments) -> torch.Tensor:
    """What the product of with the features is `sum_d (vote_d - mean_d)^2 / (2 sigma_d^2)`, `(J, G, K)`."""
    types, features = moments.feature_BNKP.shape[1:3]
    outputs, batch, _ = gaussian.center_JBE.shape
    precision_JBE = 1 / (2 * gaussian.variance_JBE + EPSILON)
    pull_JBE = precision_JBE * gaussian.center_JBE
    query_JGK = (precision_JBE @ moments.second_JYE.mT).view(outputs, batch * types, features)
    linear_JGK = (pull_JBE @ moments.first_JXE.mT).view(outputs, batch * types, -1)
    query_JGK[..., -linear_JGK.shape[2] :].sub_(2 * linear_JGK)
    constant_JB1 = (pull_JBE * gaussian.center_JBE).sum(2, keepdim=True)
    query_JGK[..., -1].view(outputs, batch, types).add_(constant_JB1)
    return query_JGK


def _explained(
    distance_JGK: torch.Tensor,
    prior_JB1: torch.Tensor,
    moments: _Moments,
    value_BNKP: torch.Tensor,
    normalize_distances: bool,
) -> torch.Tensor:
    """The E-step and the next gathering: what each output capsule explains of the features, `(J, B, Y)`."""
    batch, types = moments.feature_BNKP.shape[:2]
    key_GKP, value_GKP = moments.feature_BNKP.flatten(0, 1), value_BNKP.flatten(0, 1)
    prior_JG1 = prior_JB1.expand(-1, -1, types).flatten(1).unsqueeze(2)
    if normalize_distances:
        spread_G1P = spread_over_outputs(distance_JGK, key_GKP).unsqueeze(1)
        differ_G1P = spread_G1P > VARIANCE_FLOOR
        slope_G1P = torch.where(differ_G1P, 10 / torch.where(differ_G1P, spread_G1P, 1), 0)
        query_JGK = torch.cat([-distance_JGK, prior_JG1], 2)
        key_GKP = torch.cat([key_GKP * slope_G1P, torch.ones_like(spread_G1P)], 1)
    else:
        query_JGK = torch.cat([-distance_JGK[..., :-1], prior_JG1 - distance_JGK[..., -1:]], 2)
    gathered_JGK = attend_over_outputs(query_JGK * LOG2_E, key_GKP, value_GKP)
    return gathered_JGK.view(-1, batch, types * value_GKP.shape[1])
