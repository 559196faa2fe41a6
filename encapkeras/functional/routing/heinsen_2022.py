"""Heinsen's second routing (2022): vectors, credit assigned to each of them, and no votes.

Shape suffixes: B batch, I inputs, D their dimension, J outputs, E their dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.routing_inputs import check_iterations
from encapkeras.functional.torch_support.numbers_on import numbers_on
from encapkeras.functional.torch_support.precision import full_precision


class VectorRoutingWeights(NamedTuple):
    """Weights of `heinsen_2022_routing`; 1 in place of I where all inputs share them.

    Attributes:
        active_weight: `W_A`, `(I, D)`.
        active_bias: `B_A`, `(I,)`.
        vote_input_scale: `W_F1`, `(J, D)`.
        vote_weight: `W_F2`, `(D, E)`.
        vote_bias: `B_F2`, `(J, E)`.
        prediction_weight: `W_G1`, `(E, D)`.
        prediction_scale: `W_G2`, `(J, D)`.
        prediction_bias: `B_G2`, `(J, D)`.
        score_scale: `W_S`, `(I, J)`.
        score_bias: `B_S`, `(I, J)`.
    """

    active_weight: torch.Tensor
    active_bias: torch.Tensor
    vote_input_scale: torch.Tensor
    vote_weight: torch.Tensor
    vote_bias: torch.Tensor
    prediction_weight: torch.Tensor
    prediction_scale: torch.Tensor
    prediction_bias: torch.Tensor
    score_scale: torch.Tensor
    score_bias: torch.Tensor


def heinsen_2022_routing(
    inputs: torch.Tensor,
    weights: VectorRoutingWeights,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    *,
    iterations: int = 2,
    normalize: bool = True,
    mask: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route vectors: outputs are combinations of votes that are never made, and predict the inputs in turn.

    With `x'_i = x_i / sqrt(I)` and `f_i = sigmoid(W_A_i . x'_i + B_A_i)`: `R_ij` is 1/J, later `softmax over the
    outputs j of log sigmoid(W_S_ij x_i . x^_j + B_S_ij)`, with the prediction `x^_j = W_G2_j layer_norm(y_j) W_G1 +
    B_G2_j`. `credit_ij = beta_use_ij f_i R_ij - beta_ignore_ij f_i (1 - R_ij)`, and `y_j = sum_i credit_ij vote_ij`
    with `vote_ij = (W_F1_j x'_i) W_F2 + B_F2_j` (Heinsen 2022).

    Args:
        inputs: `(B, I, D)`.
        weights: All weights but the betas.
        beta_use: What it is worth to use an input, `(I, J)` or `(B, I, J)`.
        beta_ignore: What it costs to ignore an input, likewise.
        iterations: Number T of iterations, from 1.
        normalize: Whether the outputs go through a layer norm without weights.
        mask: `(I, J)` or `(B, I, J)`; true where an input is hidden from an output. An input that is hidden from all of
            them counts for nothing.
        length: Number of real inputs of each sample, `(B,)`, in place of I in the scale; I if not given.
        coefficients: Fixed R, `(I, J)` or `(B, I, J)`, whose sum over J is 1, or 1 in place of I where all inputs share
            them: there is one iteration. Those of pairs that are hidden count for nothing.

    Returns:
        Outputs `(B, J, E)`, and the credit `(B, I, J)` of the last iteration.

    Raises:
        ArgumentError: `iterations` has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> I, D, J, E = 20, 8, 5, 6
        >>> shapes = [(I, D), (I,), (J, D), (D, E), (J, E), (E, D), (J, D), (J, D), (I, J), (I, J)]
        >>> weights = VectorRoutingWeights(*(torch.randn(shape) for shape in shapes))
        >>> beta = torch.randn(I, J)
        >>> out, credit = heinsen_2022_routing(torch.randn(2, I, D), weights, beta, beta)
        >>> out.shape, credit.shape
        (torch.Size([2, 5, 6]), torch.Size([2, 20, 5]))
    """
    check_iterations(iterations)
    _check_sizes(inputs, weights, beta_use, beta_ignore, mask, coefficients)
    with full_precision(inputs, weights.vote_weight) as wide:
        w = VectorRoutingWeights(*map(wide, weights))
        input_BID, use, ignore = wide(inputs), wide(beta_use), wide(beta_ignore)
        count = numbers_on(input_BID, inputs.shape[1]) if length is None else wide(length).clamp_min(1)[:, None, None]
        scaled_BID = input_BID / count.sqrt()
        active_BI1 = ((scaled_BID * w.active_weight).sum(-1) + w.active_bias).sigmoid().unsqueeze(-1)
        visible = None if mask is None else ~mask.bool()
        if visible is not None:
            active_BI1 = active_BI1 * visible
        if coefficients is None:
            share = _first_share(len(w.vote_bias), input_BID, visible)
        else:
            share, iterations = wide(coefficients), 1
        for iteration in range(iterations):
            used = active_BI1 * share
            credit_BIJ = use * used - ignore * (active_BI1 - used)
            gathered_BJD = credit_BIJ.mT @ scaled_BID
            out_BJE = (gathered_BJD * w.vote_input_scale) @ w.vote_weight + credit_BIJ.sum(1).unsqueeze(
                -1
            ) * w.vote_bias
            if iteration < iterations - 1:
                prediction_BJD = (_norm(out_BJE) @ w.prediction_weight) * w.prediction_scale + w.prediction_bias
                score_BIJ = F.logsigmoid((input_BID @ prediction_BJD.mT) * w.score_scale + w.score_bias)
                share = _softmax(score_BIJ, visible)
        out_BJE = _norm(out_BJE) if normalize else out_BJE
        return out_BJE.to(inputs.dtype), credit_BIJ.to(inputs.dtype)


def end_to_end_credit(credits: list[torch.Tensor], *, of_sample: bool = True) -> torch.Tensor:
    """Return the credit of a stack's first inputs for its last outputs, `(B, I, J)`.

    The product of the layers' credits, each divided by its standard deviation before the next (Heinsen 2022).

    Args:
        credits: Of each layer, from the first to the last.
        of_sample: Whether the deviation is that of a sample; if not, that of the whole batch, as in Heinsen's code.
    """
    total = None
    for credit in credits:
        total = credit if total is None else total @ credit
        deviation = total.std((1, 2), keepdim=True) if of_sample else total.std()
        total = total / (deviation + 1e-5)
    if total is None:
        raise ShapeError("credits must hold those of at least one layer; received none")
    return total


def _norm(out_BJE: torch.Tensor) -> torch.Tensor:
    return out_BJE if out_BJE.shape[-1] == 1 else F.layer_norm(out_BJE, out_BJE.shape[-1:], eps=1e-5)


def _first_share(outputs: int, like: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Return equal shares of all outputs that an input is not hidden from."""
    if visible is None:
        return like.new_full((), 1 / outputs)
    return visible.to(like.dtype) / visible.sum(-1, keepdim=True).clamp_min(1)


def _softmax(score_BIJ: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    if visible is None:
        return score_BIJ.softmax(-1)
    hidden_from_all = ~visible.any(-1, keepdim=True)
    return score_BIJ.masked_fill(~(visible | hidden_from_all), -math.inf).softmax(-1) * visible


def _check_sizes(
    inputs: torch.Tensor,
    weights: VectorRoutingWeights,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    mask: torch.Tensor | None,
    coefficients: torch.Tensor | None,
) -> None:
    shape = tuple(inputs.shape)
    if len(shape) != 3 or 0 in shape[1:]:
        raise ShapeError(f"inputs must be (batch, inputs, dim), none but the batch 0; received {shape}")
    (_, inputs_, dim), (outputs, out_dim) = shape, weights.vote_bias.shape
    many = {"active_weight": (dim,), "active_bias": (), "score_scale": (outputs,), "score_bias": (outputs,)}
    single = {
        "vote_input_scale": (outputs, dim),
        "vote_weight": (dim, out_dim),
        "prediction_weight": (out_dim, dim),
        "prediction_scale": (outputs, dim),
        "prediction_bias": (outputs, dim),
    }
    for name, part in weights._asdict().items():
        rest = many.get(name)
        allowed = [single.get(name, (outputs, out_dim))] if rest is None else [(inputs_, *rest), (1, *rest)]
        if tuple(part.shape) not in allowed:
            raise ShapeError(f"{name} must be {' or '.join(map(str, allowed))}; received {tuple(part.shape)}")
    if coefficients is not None and tuple(coefficients.shape) == (1, outputs):
        coefficients = None
    by_pair = {"beta_use": beta_use, "beta_ignore": beta_ignore, "mask": mask, "coefficients": coefficients}
    for name, part in by_pair.items():
        if part is not None and tuple(part.shape) not in [(inputs_, outputs), (*shape[:2], outputs)]:
            raise ShapeError(
                f"{name} must be {(inputs_, outputs)}, with the batch before it or not; received {tuple(part.shape)}"
            )
