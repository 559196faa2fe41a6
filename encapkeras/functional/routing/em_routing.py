"""EM routing without votes (Hinton et al., ICLR 2018; Li et al. 2018).

Votes are linear in the input capsule, so their squares are linear in the products of its components. With the features
`F = [1, u_a, u_a u_b (a <= b)]` the M-step gathers `A = sum_p R F` and contracts it with weights and products of
weights, and the E-step makes of variances and the same weights a query whose product with F is the distance: together
they are cross-attention from output to input capsules, the softmax being over the outputs.

Squares lose digits where numbers are far from 0. So input capsules are taken relative to an origin, the mean capsule of
their type in their sample, each weighted by its activation, and votes relative to the mean vote of the origins. The
formulas depend on neither, so that both are constants without gradient.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, K features, J output capsules, E their
dimension, C = D + 1, Y = N * K, G = B * N.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from encapkeras.functional.routing.attention import LOG2_E, attend_over_outputs, spread_over_outputs
from encapkeras.functional.routing.deferred_weight_gradient import Moments, route
from encapkeras.functional.routing.em_steps import (
    EPSILON,
    EQUAL_DISTANCES,
    VARIANCE_FLOOR,
    Gaussian,
    Options,
    inverse_amount,
    iterate,
)
from encapkeras.functional.routing.em_votes import route_by_votes, votes_are_faster
from encapkeras.functional.routing.routing_inputs import check_coefficients, check_em, check_routing
from encapkeras.functional.routing.vote_moments import SquareMoments, products, sums_by_type, with_bias
from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.precision import full_precision


@compilable
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
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route capsules by expectation maximization: each output capsule is a Gaussian that explains some of the votes.

    `vote_ij = W[n, j] u_i + bias[n, j]` for the input capsules `i = (n, p)`; R starts at 1 / J. T times the M-step:
    `R_ij <- R_ij a_i`, `R_j = sum_i R_ij`, `mu_jd = sum_i R_ij vote_ijd / R_j`,
    `sigma_jd^2 = sum_i R_ij (vote_ijd - mu_jd)^2 / R_j`, `cost_j = sum_d (log sigma_jd + beta_v_j) R_j` and
    `a_j = sigmoid((1 + t) (beta_a_j - range(cost_j)))`, t = 0 ... T - 1, with
    `range(x) = 10 (x - min) / (max - min) - 5` over j (0 where all are equal). Between them the E-step:
    `p_ij = exp(-sum_d (vote_ijd - mu_jd)^2 / (2 sigma_jd^2)) / sqrt(prod_d 2 pi sigma_jd^2)` and
    `R_ij = p_ij a_j / sum_j p_ij a_j` (Hinton et al. 2018, procedure 1; `range`, epsilons: Li et al. 2018, code).
    Variances are at least 1e-12. Where an output explains one of many capsules, float32 loses digits; float64 does not.

    Args:
        capsules: `(B, P, N, D)`: P positions of N types. Half precision is computed in float32.
        weight: Matrices of the votes `(N, J, E, D)`, or one for each of I capsules: `(I, J, E, D)` with P = 1, N = I.
        bias: Added to the votes, `(N, J, E)`, or None.
        activations: Weights of the input capsules `(B, P, N)`, from 0; None for 1. Where all are 0, means are 0.
        beta_v: Cost of explaining a vote, `(J,)`.
        beta_a: Threshold of the activation, `(J,)`.
        iterations: Number T of iterations, from 1.
        normalize_distances: Whether `range` over j is also applied to the exponents of the E-step.
        density_floor: Added to the root in `p_ij`, from 0; in high dimensions the default, the original's, exceeds it.
        coefficients: Fixed R before it is multiplied by activations, `(N, J)`, whose sum over J is 1, the same for all
            positions of a type: there is one M-step, with the t of the last iteration.

    Returns:
        Means `(B, J, E)` and activations `(B, J)` between 0 and 1, in the type of `capsules`.

    Raises:
        ArgumentError: `iterations` or `density_floor` has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> capsules, weight, beta = torch.rand(2, 36, 32, 8), torch.randn(32, 10, 16, 8), torch.rand(10)
        >>> [part.shape for part in em_routing(capsules, weight, None, None, beta, beta)]
        [torch.Size([2, 10, 16]), torch.Size([2, 10])]
    """
    check_routing(capsules, weight, bias, iterations)
    check_em(capsules, weight, activations, {"beta_v": beta_v, "beta_a": beta_a}, density_floor)
    if coefficients is not None:
        check_coefficients(coefficients, (weight.shape[0], weight.shape[1]))
    options = Options(iterations, normalize_distances, density_floor)
    if not is_traced() and votes_are_faster(*capsules.shape[:2], *weight.shape):
        return route_by_votes(capsules, weight, bias, activations, beta_v, beta_a, coefficients, options)
    return _route_relative_to_origin(capsules, weight, bias, activations, beta_v, beta_a, coefficients, options)


def _route_relative_to_origin(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activations: torch.Tensor | None,
    beta_v: torch.Tensor,
    beta_a: torch.Tensor,
    coefficients: torch.Tensor | None,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move capsules and votes to their origins, route, and move the means back."""
    with full_precision(capsules) as wide:
        active_BNP = None if activations is None else wide(activations).transpose(1, 2)
        capsules_BNDP = wide(capsules).permute(0, 2, 3, 1)
        origin_BND1, share_BN = _find_origin(
            capsules_BNDP.detach(), None if active_BNP is None else active_BNP.detach()
        )
        weight_JNCE = with_bias(wide(weight), None if bias is None else wide(bias))
        origin_BNC = F.pad(origin_BND1.squeeze(3), (1, 0), value=1.0)
        # The mean vote of the origins. Nothing depends on it, nor on the origins: they are constants.
        shift_JBE = (origin_BNC * share_BN.unsqueeze(2)).flatten(1) @ weight_JNCE.detach().flatten(1, 2)
        make_moments = functools.partial(SquareMoments, origin_BNC=origin_BNC, shift_JBE=shift_JBE)
        routing = functools.partial(_iterate, options=options)
        fixed_NJ = None if coefficients is None else wide(coefficients)
        tensors = (products(capsules_BNDP - origin_BND1), active_BNP, wide(beta_v), wide(beta_a), fixed_NJ)
        mean_JBE, explained_JB1, activation_JB = route(make_moments, routing, weight_JNCE, *tensors)
        mean_JBE = mean_JBE + shift_JBE * explained_JB1
        return mean_JBE.transpose(0, 1).to(capsules.dtype), activation_JB.T.to(capsules.dtype)


def _find_origin(capsules_BNDP: torch.Tensor, active_BNP: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean capsule of each type by activation, `(B, N, D, 1)`, and its share of all activation, `(B, N)`."""
    batch, types, _, positions = capsules_BNDP.shape
    if active_BNP is None:
        return capsules_BNDP.mean(3, keepdim=True), capsules_BNDP.new_full((batch, types), 1 / types)
    amount_BN = active_BNP.sum(2)
    amount_BN11 = amount_BN[:, :, None, None]
    weighted_BNDP = capsules_BNDP * torch.where(amount_BN11 > 0, active_BNP.unsqueeze(2) / amount_BN11, 1 / positions)
    total_B1 = amount_BN.sum(1, keepdim=True)
    return weighted_BNDP.sum(3, keepdim=True), torch.where(total_B1 > 0, amount_BN / total_B1, 1 / types)


def _iterate(
    moments: Moments,
    feature_BNKP: torch.Tensor,
    active_BNP: torch.Tensor | None,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    value_BNKP = feature_BNKP if active_BNP is None else feature_BNKP * active_BNP.unsqueeze(2)
    if fixed_NJ is None:
        outputs = len(beta_v_J)
        gathered_JBY = (value_BNKP.sum(3).flatten(1) / outputs).expand(outputs, -1, -1)
    else:
        gathered_JBY = sums_by_type(value_BNKP, fixed_NJ)

    def refit(gaussian: Gaussian, prior_JB1: torch.Tensor) -> Gaussian:
        square_JBE = -LOG2_E / (2 * gaussian.variance_JBE + EPSILON)
        constant_JB1 = torch.zeros_like(prior_JB1) if options.normalize_distances else LOG2_E * prior_JB1
        query_JBY = moments.expand(square_JBE, gaussian.mean_JBE, constant_JB1)
        ranged_prior_JB1 = prior_JB1 if options.normalize_distances else None
        gathered_JBY = _gather_explained(query_JBY, ranged_prior_JB1, feature_BNKP, value_BNKP)
        return _fit_gaussian(*moments.contract(gathered_JBY))

    first = _fit_gaussian(*moments.contract(gathered_JBY))
    gaussian, chance_JB = iterate(first, refit, beta_v_J, beta_a_J, options, fixed=fixed_NJ is not None)
    return gaussian.mean_JBE, gaussian.explained_JB1, chance_JB.sigmoid()


def _fit_gaussian(first_JBE: torch.Tensor, second_JBE: torch.Tensor, amount_JB1: torch.Tensor) -> Gaussian:
    """The M-step, from the sums of reduced votes."""
    inverse_JB1 = inverse_amount(amount_JB1)
    explained_JB1 = amount_JB1 * inverse_JB1
    mean_JBE = first_JBE * inverse_JB1
    variance_JBE = second_JBE * inverse_JB1 - mean_JBE * mean_JBE * (2 - explained_JB1)
    return Gaussian(mean_JBE, variance_JBE.clamp_min(VARIANCE_FLOOR), amount_JB1, explained_JB1)


def _gather_explained(
    query_JBY: torch.Tensor, ranged_prior_JB1: torch.Tensor | None, feature_BNKP: torch.Tensor, value_BNKP: torch.Tensor
) -> torch.Tensor:
    """Run the E-step and gather for the next M-step: what each output capsule explains of the features, `(J, B, Y)`."""
    outputs, (batch, types, features, _) = len(query_JBY), feature_BNKP.shape
    query_JGK = query_JBY.view(outputs, batch * types, features)
    key_GKP, value_GKP = feature_BNKP.flatten(0, 1), value_BNKP.flatten(0, 1)
    if ranged_prior_JB1 is not None:  # distances are scaled to [-5, 5] through the features: only differences count
        spread_G1P = spread_over_outputs(query_JGK, key_GKP).unsqueeze(1)
        differ_G1P = spread_G1P > EQUAL_DISTANCES
        slope_G1P = torch.where(differ_G1P, 10 * LOG2_E / torch.where(differ_G1P, spread_G1P, 1), 0)
        prior_JG1 = (LOG2_E * ranged_prior_JB1).expand(-1, -1, types).flatten(1).unsqueeze(2)
        query_JGK = torch.cat([query_JGK, prior_JG1], 2)
        key_GKP = torch.cat([key_GKP * slope_G1P, torch.ones_like(spread_G1P)], 1)
    return attend_over_outputs(query_JGK, key_GKP, value_GKP).reshape(query_JBY.shape)
