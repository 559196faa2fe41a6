"""Heinsen's two routings with the tensor of all votes, as analyses make them, of lists as maps of one position.

Shape suffixes: I inputs, B batch, D dimension of an input, J outputs, E their dimension, R rows and C columns of an
output (E = R * C), X columns of an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.reference.window_routing_votes import Trace, dot, gather

EPSILON = 1e-5


def heinsen_2019_routing(
    capsules: torch.Tensor,
    active: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    output_bias: torch.Tensor | None,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    *,
    outputs: int | None = None,
    iterations: int = 3,
    density: str = "gaussian",
    trace: Trace | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heinsen's first routing (2019), of capsules `(B, 1, 1, I, D)` and the sigmoids of their scores `(B, 1, 1, I)`.

    There are as many outputs as inputs, if not given; they differ by `output_bias` times -1 to 1, if there is one.

    Returns:
        Scores `(B, J)`, means and variances `(B, J, E)`.
    """
    outputs, active_IB1 = outputs or capsules.shape[3], active[:, 0, 0].T.unsqueeze(2)
    if output_bias is not None:
        steps = torch.linspace(-1, 1, outputs, dtype=bias.dtype, device=bias.device)
        bias = bias + steps[:, None, None] * output_bias
    matrix_IBRX = capsules[:, 0, 0].transpose(0, 1).unflatten(2, (bias.shape[2], -1))
    inputs, batch = matrix_IBRX.shape[:2]
    weight_IJXC, bias_IJRC = (part.expand(inputs, outputs, -1, -1) for part in (weight, bias))
    vote_IBJRC = torch.einsum("ibrx,ijxc->ibjrc", matrix_IBRX, weight_IJXC) + bias_IJRC.unsqueeze(1)
    vote_IBEJ = vote_IBJRC.flatten(3).mT.contiguous()
    use_I1J, ignore_I1J = (beta.expand(inputs, outputs).unsqueeze(1) for beta in (beta_use, beta_ignore))
    share_IBJ = vote_IBEJ.new_full((inputs, batch, outputs), 1 / outputs)
    if trace:
        trace.present = active_IB1[..., 0] > 0
    for iteration in range(iterations):
        used_IBJ = active_IB1 * share_IBJ
        score_BJ = (use_I1J * used_IBJ - ignore_I1J * (active_IB1 - used_IBJ)).sum(0)
        part_IBJ = used_IBJ / (used_IBJ.sum(0) + EPSILON)
        mean_BEJ = gather(part_IBJ, vote_IBEJ)
        square_IBEJ = (vote_IBEJ - mean_BEJ) ** 2
        variance_BEJ = gather(part_IBJ, square_IBEJ) + EPSILON
        if trace:
            trace.add(vote_IBEJ, share_IBJ, used_IBJ, mean_BEJ, score_BJ.sigmoid())
        if iteration < iterations - 1:
            if density == "skm":
                log_density_IBJ = (-square_IBEJ.sum(2)).log_softmax(2)
            else:
                log_density_IBJ = -dot(square_IBEJ, 0.5 / variance_BEJ) - variance_BEJ.log().sum(1) / 2
            share_IBJ = (F.logsigmoid(score_BJ) + log_density_IBJ).softmax(2)
    return score_BJ, mean_BEJ.mT, variance_BEJ.mT


def heinsen_2022_routing(
    capsules: torch.Tensor,
    present: torch.Tensor,
    weights: Any,
    beta_use: Sequence[torch.Tensor],
    beta_ignore: Sequence[torch.Tensor],
    *,
    iterations: int = 2,
    normalize: bool = True,
    trace: Trace | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Heinsen's second routing (2022) with `VectorRoutingWeights`, of capsules `(B, 1, 1, I, D)`.

    Args:
        capsules: The inputs.
        present: 1 where there is an input, else 0, `(B, 1, 1, I)`.
        weights: All weights but the betas.
        beta_use: What it is worth to use an input, `(I, J)`; or matrix and bias of a linear function of the input.
        beta_ignore: What it costs to ignore an input, likewise.
        iterations: Number of iterations.
        normalize: Whether the outputs go through a layer norm without weights.
        trace: Takes what happens.

    Returns:
        Outputs `(B, J, E)`, and the credit of the last iteration, `(B, I, J)`.
    """
    w, child_IBD, present_IB = weights, capsules[:, 0, 0].transpose(0, 1), present[:, 0, 0].T
    scaled_IBD = child_IBD / present_IB.sum(0).clamp_min(1).sqrt().unsqueeze(1)
    logit_IB = (scaled_IBD * w.active_weight.unsqueeze(1)).sum(2) + w.active_bias.unsqueeze(1)
    active_IB1 = (logit_IB.sigmoid() * present_IB).unsqueeze(2)
    vote_IBJE = (scaled_IBD.unsqueeze(2) * w.vote_input_scale) @ w.vote_weight + w.vote_bias
    vote_IBEJ, outputs = vote_IBJE.mT.contiguous(), len(w.vote_bias)
    use_IBJ, ignore_IBJ = (_beta(child_IBD, parts) for parts in (beta_use, beta_ignore))
    share_IBJ = torch.full_like(vote_IBEJ[:, :, 0], 1 / outputs)
    if trace:
        trace.present = present_IB > 0
    for iteration in range(iterations):
        used_IBJ = active_IB1 * share_IBJ
        credit_IBJ = use_IBJ * used_IBJ - ignore_IBJ * (active_IB1 - used_IBJ)
        sum_BJE = gather(credit_IBJ, vote_IBEJ).mT
        norm_BJE = sum_BJE if sum_BJE.shape[2] == 1 else F.layer_norm(sum_BJE, sum_BJE.shape[2:])
        out_BJE = norm_BJE if normalize else sum_BJE
        if trace:
            trace.add(vote_IBEJ, share_IBJ, used_IBJ, out_BJE.mT, out_BJE.norm(dim=2))
        if iteration < iterations - 1:
            prediction_BJD = norm_BJE @ w.prediction_weight * w.prediction_scale + w.prediction_bias
            product_IBJ = torch.einsum("ibd,bjd->ibj", child_IBD, prediction_BJD)
            logit_IBJ = product_IBJ * w.score_scale.unsqueeze(1) + w.score_bias.unsqueeze(1)
            share_IBJ = F.logsigmoid(logit_IBJ).softmax(2)
    return out_BJE, credit_IBJ.transpose(0, 1)


def _beta(child_IBD: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0].unsqueeze(1) if len(parts) == 1 else child_IBD @ parts[0] + parts[1]
