"""Gaussians of weighted votes: means and variances from sums about a center, which may be any.

Sums of squares about 0 would lose the digits that variances need; those about a mean of earlier weights lose few.

Shape suffixes: n children, M parent positions, J parent types, A rows and C columns of a pose.
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
    """Weighted mean and variance of votes, and the sum of the weights."""

    amount_MJ: torch.Tensor
    mean_MAJC: torch.Tensor
    variance_MAJC: torch.Tensor


def weighted_sums(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Sums:
    """Return what children add to the sums of their parents."""
    share_nM1J1 = share_nMJ[:, :, None, :, None]
    away_nMAJC = vote_nMAJC - center_MAJC
    weighted_nMAJC = share_nM1J1 * away_nMAJC
    return Sums(share_nMJ.sum(0), weighted_nMAJC.sum(0), (weighted_nMAJC * away_nMAJC).sum(0))


def gaussian(sums: Sums, center_MAJC: torch.Tensor, epsilon: float) -> Gaussian:
    """Return mean and variance with `weight / (sum of weights + epsilon)` as the weights of the votes.

    `mean = sum(c v)`; `variance = sum(c (v - mean)^2)`.
    """
    amount_M1J1 = sums.amount_MJ[..., None, :, None]
    inverse_M1J1 = (amount_M1J1 + epsilon).reciprocal()
    shift_MAJC = (sums.first_MAJC - epsilon * center_MAJC) * inverse_M1J1  # of the mean from the center
    second_MAJC = sums.second_MAJC + shift_MAJC * (shift_MAJC * amount_M1J1 - 2 * sums.first_MAJC)
    return Gaussian(sums.amount_MJ, center_MAJC + shift_MAJC, (second_MAJC * inverse_M1J1).clamp_min(0))


def distance(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor_MAJC: torch.Tensor) -> torch.Tensor:
    """Return `sum_e factor_e (vote_e - mean_e)^2`, `(n, M, J)`."""
    away_nMAJC = vote_nMAJC - mean_MAJC
    return (away_nMAJC * away_nMAJC * factor_MAJC).sum((2, 4))
