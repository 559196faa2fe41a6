"""EM routing by votes, some samples at a time: for few positions a type, where sums of features cost more.

The votes of some samples stay in the processor's cache through all iterations.

Shape suffixes: B batch, P positions, N capsule types, D their dimension, I = N * P, J outputs, E their dimension, b a
piece of B.
"""

from __future__ import annotations

import functools

import torch

from encapkeras.functional.routing.em_steps import (
    EPSILON,
    EQUAL_DISTANCES,
    VARIANCE_FLOOR,
    Gaussian,
    Options,
    inverse_amount,
    iterate,
)
from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.functional.torch_support.sample_pieces import call_by_samples

_FEW = 1 << 18
"""Numbers of votes that take less time than the many calls of the other way."""


def votes_are_faster(batch: int, positions: int, types: int, outputs: int, out_dim: int, dim: int) -> bool:
    """Return whether routing by votes is faster than by sums of features, by the sizes."""
    features = (dim + 1) * (dim + 2) // 2
    # Multiplications for each capsule type and output: features are summed over the positions, then mapped to votes.
    by_features = positions * features + features * out_dim
    by_votes = 0.8 * positions * (dim + 4) * out_dim
    return by_votes < by_features or batch * positions * types * outputs * out_dim <= _FEW


def route_by_votes(
    capsules_BPND: torch.Tensor,
    weight_NJED: torch.Tensor,
    bias_NJE: torch.Tensor | None,
    activations_BPN: torch.Tensor | None,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means `(B, J, E)` and activations `(B, J)`; see `em_routing`."""
    with full_precision(capsules_BPND) as wide:
        of_all = (weight_NJED, bias_NJE, beta_v_J, beta_a_J, fixed_NJ)
        of_samples = (capsules_BPND, activations_BPN)
        tensors = [None if tensor is None else wide(tensor) for tensor in (*of_samples, *of_all)]
        numbers = capsules_BPND.shape[1] * weight_NJED[..., 0].numel()
        route = functools.partial(_route, options=options)
        mean_BJE, activation_BJ = call_by_samples(route, tensors[:2], tensors[2:], numbers)
        return mean_BJE.to(capsules_BPND.dtype), activation_BJ.to(capsules_BPND.dtype)


def _route(
    capsules_bPND: torch.Tensor,
    active_bPN: torch.Tensor | None,
    weight_NJED: torch.Tensor,
    bias_NJE: torch.Tensor | None,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, positions, types, _ = capsules_bPND.shape
    outputs = weight_NJED.shape[1]
    vote_JbIE = _votes(capsules_bPND, weight_NJED, bias_NJE)
    active_bI = None if active_bPN is None else active_bPN.transpose(1, 2).flatten(1)
    if fixed_NJ is None:
        share_JbI = vote_JbIE.new_full((outputs, batch, types * positions), 1 / outputs)
    else:
        share_JbI = fixed_NJ.T.repeat_interleave(positions, 1).unsqueeze(1).expand(-1, batch, -1)
    squares: list[torch.Tensor] = []

    def fit(share_JbI: torch.Tensor) -> Gaussian:
        weight_JbI = share_JbI if active_bI is None else share_JbI * active_bI
        amount_Jb1 = weight_JbI.sum(2, keepdim=True)
        inverse_Jb1 = inverse_amount(amount_Jb1)
        normed_Jb1I = (weight_JbI * inverse_Jb1).unsqueeze(2)
        mean_Jb1E = normed_Jb1I @ vote_JbIE
        squares[:] = [(vote_JbIE - mean_Jb1E).square()]
        variance_JbE = (normed_Jb1I @ squares[0]).squeeze(2).clamp_min(VARIANCE_FLOOR)
        return Gaussian(mean_Jb1E.squeeze(2), variance_JbE, amount_Jb1, amount_Jb1 * inverse_Jb1)

    def refit(gaussian: Gaussian, prior_Jb1: torch.Tensor) -> Gaussian:
        factor_JbE1 = (1 / (2 * gaussian.variance_JBE + EPSILON)).unsqueeze(3)
        distance_JbI = (squares[0] @ factor_JbE1).squeeze(3)
        if options.normalize_distances:
            low_bI, high_bI = distance_JbI.amin(0), distance_JbI.amax(0)
            differ_bI = high_bI - low_bI > EQUAL_DISTANCES
            distance_JbI = torch.where(differ_bI, 10 / torch.where(differ_bI, high_bI - low_bI, 1), 0) * distance_JbI
        return fit((prior_Jb1 - distance_JbI).softmax(0))

    found, chance_Jb = iterate(fit(share_JbI), refit, beta_v_J, beta_a_J, options, fixed=fixed_NJ is not None)
    unused_J11 = (0 * (beta_v_J + beta_a_J))[:, None, None]  # gradients of betas that decide nothing are 0, not absent
    return (found.mean_JBE + unused_J11).transpose(0, 1), chance_Jb.sigmoid().T


def _votes(capsules_bPND: torch.Tensor, weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """The votes `(J, b, I, E)`."""
    vote_JbNPE = torch.einsum("bpnd,njed->jbnpe", capsules_bPND, weight_NJED)
    if bias_NJE is not None:
        vote_JbNPE = vote_JbNPE + bias_NJE.transpose(0, 1)[:, None, :, None]
    return vote_JbNPE.flatten(2, 3).contiguous()
