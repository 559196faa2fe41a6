"""Gaussians of the weighted votes of windows: means and variances from sums about a center, which may be any.

Sums of squares about 0 would lose the digits that variances need; those about a mean of earlier weights lose few.

Shape suffixes: n a piece of the children, M of the parents' positions, J parent types, A rows and C columns of a pose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Sums(NamedTuple):
    """Sums of weights, and of weighted votes and their squares relative to a center."""

    amount_MJ: torch.Tensor
    first_MAJC: torch.Tensor
    second_MAJC: torch.Tensor


class Gaussian(NamedTuple):
    """Weighted mean and variance of votes."""

    mean_MAJC: torch.Tensor
    variance_MAJC: torch.Tensor


def weighted_sums(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Sums:
    """Return what children add to the sums of their parents."""
    away_nMAJC = vote_nMAJC - center_MAJC
    weighted_nMAJC = share_nMJ[:, :, None, :, None] * away_nMAJC
    return Sums(share_nMJ.sum(0), weighted_nMAJC.sum(0), (weighted_nMAJC * away_nMAJC).sum(0))


def gaussian(sums: Sums, center_MAJC: torch.Tensor, epsilon: float) -> Gaussian:
    """Return `mean = sum(c v)` and `variance = sum(c (v - mean)^2)`, with `c = weight / (sum of weights + epsilon)`."""
    amount_M1J1 = sums.amount_MJ[..., None, :, None]
    inverse_M1J1 = (amount_M1J1 + epsilon).reciprocal()
    shift_MAJC = (sums.first_MAJC - epsilon * center_MAJC) * inverse_M1J1  # of the mean from the center
    second_MAJC = sums.second_MAJC + shift_MAJC * (shift_MAJC * amount_M1J1 - 2 * sums.first_MAJC)
    return Gaussian(center_MAJC + shift_MAJC, (second_MAJC * inverse_M1J1).clamp_min(0))
