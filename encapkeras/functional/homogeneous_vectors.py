"""Homogeneous vector capsules, and branches of a network merged (Byerly, Kalganova and Dear 2020).

Shape suffixes: B batch, H W map, C channels, P positions (H * W), I input capsules, J output capsules, D their
dimension, K branches.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.batch_norm import NormWeights, batch_norm

CapsulesOf = Literal["position", "filter"]
"""What is a capsule of a map: a `position`, of C numbers; or a `filter`, of P numbers."""


def homogeneous_vector_capsules(
    image: torch.Tensor,
    weight_DIJ: torch.Tensor,
    norm: NormWeights,
    *,
    training: bool,
    capsules_of: CapsulesOf = "position",
    momentum: float = 0.0003,
    epsilon: float = 1e-3,
) -> torch.Tensor:
    """Return output capsules whose components are sums of the inputs' same components: no matrices, and no routing.

    `s_j[d] = sum_i W_ji[d] x_i[d]`, `v_j[d] = relu((s_j[d] - mean[d]) / sqrt(variance[d] + epsilon) + offset[d])`
    (Byerly et al. 2020, arXiv:2001.09136). A component's mean and variance are those of the batch and of all output
    capsules together. The products `W_ji[d] x_i[d]` are never made: there is one matrix product for each component.

    Args:
        image: A map `(B, H, W, C)`, or a list of its positions `(B, P, C)`.
        weight_DIJ: Weights `(D, I, J)`; I = P and D = C of positions, I = C and D = P of filters.
        norm: Scale, offset and moving statistics, each `(D,)`.
        training: Whether to use and record the batch's statistics.
        capsules_of: What is an input capsule: each `position` of the map, of C numbers, as in the paper's networks; or
            each `filter`, of P numbers.
        momentum: Share of the new statistics in the moving ones; the moving variance is that of biased ones.
        epsilon: Added to the variance.

    Returns:
        Capsules `(B, J, D)`, none of whose components is negative.

    Raises:
        ArgumentError: `capsules_of` has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> norm = NormWeights(torch.ones(64), torch.zeros(64), torch.zeros(64), torch.ones(64))
        >>> image, weight = torch.rand(2, 5, 5, 64), torch.randn(64, 25, 10)
        >>> homogeneous_vector_capsules(image, weight, norm, training=True).shape
        torch.Size([2, 10, 64])
    """
    if capsules_of not in ("position", "filter"):
        raise ArgumentError(f"capsules_of must be 'position' or 'filter'; received {capsules_of!r}")
    if image.dim() not in (3, 4):
        raise ShapeError(
            f"homogeneous vector capsules take a map (batch, height, width, channels), or a list of its positions "
            f"(batch, positions, channels); received shape {tuple(image.shape)}"
        )
    value_BPC = image.flatten(1, 2) if image.dim() == 4 else image
    input_DBI = value_BPC.permute(2, 0, 1) if capsules_of == "position" else value_BPC.transpose(0, 1)
    dim, _, inputs = input_DBI.shape
    if weight_DIJ.dim() != 3 or tuple(weight_DIJ.shape[:2]) != (dim, inputs):
        raise ShapeError(
            f"weight must be (dim, inputs, outputs) = ({dim}, {inputs}, ...) for the {capsules_of}s of a map of shape "
            f"{tuple(image.shape)}; received {tuple(weight_DIJ.shape)}"
        )
    sum_BDJ = torch.bmm(input_DBI, weight_DIJ).transpose(0, 1)
    options: dict[str, Any] = {"unbiased": False, "momentum": momentum, "epsilon": epsilon}
    normed_BDJ = batch_norm(sum_BDJ, norm, training=training, **options)
    return normed_BDJ.relu().transpose(1, 2)


def merge_branches(
    scores_BJK: torch.Tensor,
    weight_K: torch.Tensor,
    norm: NormWeights,
    *,
    training: bool,
    momentum: float = 0.0003,
    epsilon: float = 1e-3,
) -> torch.Tensor:
    """Return the sum of the scores of K branches, `(B, J)`, each weighted and normalized by itself.

    `out_j = sum_k ((z_jk - mean_k) / sqrt(variance_k + epsilon) + offset_k)` with `z_jk = w_k score_jk` (Byerly et al.
    2020, arXiv:2001.09136). A branch's mean and variance are those of the batch and of all classes together.

    Args:
        scores_BJK: Scores of the classes `(B, J, K)`.
        weight_K: Weights of the branches, `(K,)`.
        norm: Scale, offset and moving statistics, each `(K,)`.
        training: Whether to use and record the batch's statistics.
        momentum: Share of the new statistics in the moving ones; the moving variance is that of biased ones.
        epsilon: Added to the variance.

    Raises:
        ShapeError: The sizes do not match.

    Examples:
        >>> norm = NormWeights(torch.ones(3), torch.zeros(3), torch.zeros(3), torch.ones(3))
        >>> merge_branches(torch.rand(2, 10, 3), torch.ones(3), norm, training=True).shape
        torch.Size([2, 10])
    """
    if scores_BJK.dim() != 3 or tuple(weight_K.shape) != (scores_BJK.shape[2],):
        raise ShapeError(
            f"scores must be (batch, classes, branches), with a weight for each branch; received "
            f"{tuple(scores_BJK.shape)} and {tuple(weight_K.shape)}"
        )
    weighted_BKJ = (scores_BJK * weight_K).transpose(1, 2)
    options: dict[str, Any] = {"unbiased": False, "momentum": momentum, "epsilon": epsilon}
    return batch_norm(weighted_BKJ, norm, training=training, **options).sum(1)
