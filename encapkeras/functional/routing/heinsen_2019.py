"""Heinsen's first routing (2019): matrices with scores, and outputs that pay for what they use and what they ignore.

Shape suffixes: B batch, I inputs, J outputs, R rows, D columns of an input, E columns of an output; n a piece of the
inputs, M the samples.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import check_iterations
from encapkeras.functional.routing.vote_sums import distance
from encapkeras.functional.routing.window_gaussians import Sums, gaussian, mean_of, weighted_sums
from encapkeras.functional.routing.window_pieces import Tensors
from encapkeras.functional.routing.window_votes import WindowVotes, as_poses
from encapkeras.functional.torch_support.precision import full_precision

EPSILON = 1e-5

Density = Literal["gaussian", "skm"]


def heinsen_2019_routing(
    scores: torch.Tensor,
    matrices: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    *,
    iterations: int = 3,
    density: Density = "gaussian",
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Route matrices with scores: outputs are Gaussians of the votes, scored by what they use and ignore of the inputs.

    `vote_ij = M_i W_ij + B_ij`, `f_i = sigmoid(score_i)`. `R_ij` is 1/J, later `softmax over the outputs j of (log
    sigmoid(score_j) + log p_j(vote_ij))`. With `use = f_i R_ij` and `ignore = f_i - use`: `score_j = sum_i (beta_use_ij
    use_ij - beta_ignore_ij ignore_ij)`, and mean and variance of the votes weighted by `use / (sum_i use + 1e-5)`
    (Heinsen 2019). A score of -inf takes an input out.

    Args:
        scores: Scores of the inputs, as logits, `(B, I)`.
        matrices: `(B, I, R, D)`.
        weight: `(I, J, D, E)`; 1 in place of I or J where inputs or outputs share their matrices.
        bias: `(I, J, R, E)`, or 1 in place of I.
        beta_use: What it is worth to use an input, `(I, J)`; or 1 in place of I or J.
        beta_ignore: What it costs to ignore an input, likewise.
        iterations: Number T of iterations, from 1.
        density: `gaussian`; or `skm`, of soft k-means: the softmax of the negative squared distance over the outputs.
        coefficients: Fixed R, `(I, J)`, or 1 in place of I or J, whose sum over J is 1, in place of the softmax: there
            is one pass.

    Returns:
        Scores `(B, J)`, means and variances `(B, J, R, E)`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> weight, bias, beta = torch.randn(20, 5, 4, 4), torch.zeros(20, 5, 4, 4), torch.zeros(20, 5)
        >>> out = heinsen_2019_routing(torch.randn(2, 20), torch.randn(2, 20, 4, 4), weight, bias, beta, beta)
        >>> [tuple(each.shape) for each in out]
        [(2, 5), (2, 5, 4, 4), (2, 5, 4, 4)]
    """
    check_iterations(iterations)
    if density not in ("gaussian", "skm"):
        raise ArgumentError(f"density must be 'gaussian' or 'skm'; received {density!r}")
    inputs, outputs = _check_sizes(scores, matrices, weight, bias, beta_use, beta_ignore, coefficients)
    with full_precision(matrices, weight) as wide:
        full = [wide(part).expand(inputs, outputs, *part.shape[2:]) for part in (weight, bias, beta_use, beta_ignore)]
        child_B11ID = wide(matrices).flatten(2)[:, None, None]
        bias_1IAJC = full[1].transpose(1, 2).unsqueeze(0)
        votes = WindowVotes(child_B11ID, full[0][None, None], pose="matrix", bias=bias_1IAJC)
        betas = [beta.unsqueeze(0) for beta in full[2:]]
        active_B11I = wide(scores).sigmoid()[:, None, None]
        center = child_B11ID.new_zeros(scores.shape[0], 1, 1, votes.rows, outputs, votes.columns)
        if coefficients is None:
            *sums, score = votes.sum(_first, [active_B11I], betas, [center])
        else:
            iterations, fixed = 1, [wide(coefficients).expand(1, inputs, outputs)]
            with torch.no_grad():
                *sums, _ = votes.sum(_fixed, [active_B11I], [*betas, *fixed], [center])
                center = mean_of(Sums(*sums), center)
            *sums, score = votes.sum(_fixed, [active_B11I], [*betas, *fixed], [center])
        for iteration in range(iterations):
            found = gaussian(Sums(*sums), center, EPSILON)
            variance = found.variance_MAJC + EPSILON
            if iteration < iterations - 1:
                center, constant = found.mean_MAJC.detach(), F.logsigmoid(score)
                factor = -torch.ones_like(variance)
                if density == "gaussian":
                    factor, constant = -0.5 / variance, constant - variance.log().sum((-3, -1)) / 2
                expect = functools.partial(_expect, density=density)
                parents = [center, found.mean_MAJC, factor, constant]
                *sums, score = votes.sum(expect, [active_B11I], betas, parents)
        means, variances = (_as_matrices(part, votes) for part in (found.mean_MAJC, variance))
        dtype = matrices.dtype
        return score[:, 0, 0].to(dtype), means.to(dtype), variances.to(dtype)


def _as_matrices(row_B11AJC: torch.Tensor, votes: WindowVotes) -> torch.Tensor:
    matrices: torch.Tensor = as_poses(row_B11AJC[:, 0, 0]).unflatten(-1, (votes.rows, votes.columns))
    return matrices


def _first(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    outputs = vote_nMAJC.shape[3]
    share_nMJ = (children[1] / outputs).unsqueeze(2).expand(-1, -1, outputs)
    return _sums(share_nMJ, vote_nMAJC, children, weights, parents)


def _fixed(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    share_nMJ = weights[2].unsqueeze(1) * children[1].unsqueeze(2)
    return _sums(share_nMJ, vote_nMAJC, children, weights[:2], parents)


def _expect(
    vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors, *, density: Density
) -> Tensors:
    _, mean_MAJC, factor_MAJC, constant_MJ = parents
    density_nMJ = distance(vote_nMAJC, mean_MAJC, factor_MAJC)
    if density == "skm":
        density_nMJ = density_nMJ.log_softmax(2)
    share_nMJ = (constant_MJ + density_nMJ).softmax(2) * children[1].unsqueeze(2)
    return _sums(share_nMJ, vote_nMAJC, children, weights, parents)


def _sums(
    use_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors
) -> Tensors:
    beta_use_n1J, beta_ignore_n1J = (beta_nJ.unsqueeze(1) for beta_nJ in weights)
    ignore_nMJ = children[1].unsqueeze(2) - use_nMJ
    score_MJ = (beta_use_n1J * use_nMJ - beta_ignore_n1J * ignore_nMJ).sum(0)
    return (*weighted_sums(use_nMJ, vote_nMAJC, parents[0]), score_MJ)


def _check_sizes(
    scores: torch.Tensor,
    matrices: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    coefficients: torch.Tensor | None,
) -> tuple[int, int]:
    """Return the numbers of inputs and outputs."""
    shape = tuple(matrices.shape)
    if len(shape) != 4 or 0 in shape[1:]:
        raise ShapeError(f"matrices must be (batch, inputs, rows, columns), none but the batch 0; received {shape}")
    if tuple(scores.shape) != shape[:2]:
        raise ShapeError(f"scores must be (batch, inputs) = {shape[:2]}; received {tuple(scores.shape)}")
    outputs = max(beta_use.shape[-1], bias.shape[1] if bias.dim() > 1 else 0)
    expected = {
        "weight": (weight, (shape[1], outputs, shape[3], weight.shape[-1])),
        "bias": (bias, (shape[1], outputs, shape[2], weight.shape[-1])),
        "beta_use": (beta_use, (shape[1], outputs)),
        "beta_ignore": (beta_ignore, (shape[1], outputs)),
    }
    if coefficients is not None:
        expected["coefficients"] = (coefficients, (shape[1], outputs))
    for name, (part, sizes) in expected.items():
        given = tuple(part.shape)
        shared = len(given) == len(sizes) and all(
            size == wanted or (size == 1 and axis < 2)
            for axis, (size, wanted) in enumerate(zip(given, sizes, strict=True))
        )
        if not shared:
            raise ShapeError(f"{name} must be {sizes}, or 1 in place of the first sizes; received {given}")
    return shape[1], outputs
