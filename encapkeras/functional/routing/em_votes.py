"""EM routing by votes, some samples at a time: for few positions a type, where sums of features cost more.

The votes of some samples stay in the processor's cache through all iterations. In the backward pass they are made
again, and routed with a graph.

Shape suffixes: B batch, P positions, N capsule types, D their dimension, I = N * P, J outputs, E their dimension, b a
piece of B.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

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
from encapkeras.functional.torch_support.plain_gradients import gradients_of
from encapkeras.functional.torch_support.precision import full_precision, without_autocast

_PIECE = {"cpu": 1 << 18}
"""Numbers of votes in a piece: 1 MB in float32; elsewhere as many as keep the device busy."""
_PIECE_ELSEWHERE = 1 << 26


def votes_are_faster(positions: int, outputs: int, out_dim: int, dim: int) -> bool:
    """Return whether routing by votes is faster than by sums of features, by the sizes."""
    features = (dim + 1) * (dim + 2) // 2
    # Multiplications for each capsule type and output: features are summed over the positions, then mapped to votes.
    by_features = positions * features + features * out_dim
    by_votes = positions * (dim + 4) * out_dim
    return by_votes < by_features


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
        results: tuple[torch.Tensor, torch.Tensor] = _InPieces.apply(options, *tensors)
        mean_BJE, activation_BJ = results
        return mean_BJE.to(capsules_BPND.dtype), activation_BJ.to(capsules_BPND.dtype)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, options: Options, capsules: torch.Tensor, active: torch.Tensor | None, *of_all: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        context.save_for_backward(capsules, active, *of_all)
        context.options = options
        pieces = _pieces(capsules, of_all[0])
        results = [_route(capsules[piece], _of(active, piece), *of_all, options=options) for piece in pieces]
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        capsules, active, *of_all = context.saved_tensors
        route = functools.partial(_route, options=context.options)
        with without_autocast(capsules):
            if torch.is_grad_enabled():  # with create_graph=True
                inputs: list[Any] = [
                    None if each is None else each.view_as(each) for each in (capsules, active, *of_all)
                ]
                return None, *gradients_of(route(*inputs), inputs, gradients, create_graph=True)
            wanted = context.needs_input_grad[1:]
            parts = []
            leaves: list[Any]
            for piece in _pieces(capsules, of_all[0]):
                given = (capsules[piece], _of(active, piece), *of_all)
                leaves = [
                    None if each is None else each.detach().requires_grad_(want)
                    for each, want in zip(given, wanted, strict=True)
                ]
                with torch.enable_grad():
                    results = route(*leaves)
                parts.append(list(gradients_of(results, leaves, [gradient[piece] for gradient in gradients])))
        of_pieces = list(zip(*parts, strict=True))
        found = [torch.cat(each) if want else None for each, want in zip(of_pieces[:2], wanted, strict=False)]
        found += [
            sum(each[1:], each[0]) if want else None for each, want in zip(of_pieces[2:], wanted[2:], strict=True)
        ]
        return None, *found


def _of(tensor: torch.Tensor | None, piece: slice) -> torch.Tensor | None:
    return None if tensor is None else tensor[piece]


def _pieces(capsules_BPND: torch.Tensor, weight_NJED: torch.Tensor) -> Iterator[slice]:
    batch, positions = capsules_BPND.shape[:2]
    most = _PIECE.get(capsules_BPND.device.type, _PIECE_ELSEWHERE)
    size = max(1, most // (positions * weight_NJED[..., 0].numel()))
    return (slice(start, start + size) for start in range(0, max(batch, 1), size))


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
    return found.mean_JBE.transpose(0, 1), chance_Jb.sigmoid().T


def _votes(capsules_bPND: torch.Tensor, weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """The votes `(J, b, I, E)`."""
    vote_JbNPE = torch.einsum("bpnd,njed->jbnpe", capsules_bPND, weight_NJED)
    if bias_NJE is not None:
        vote_JbNPE = vote_JbNPE + bias_NJE.transpose(0, 1)[:, None, :, None]
    return vote_JbNPE.flatten(2, 3).contiguous()
