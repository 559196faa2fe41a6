"""Gaussians of the weighted votes of windows: means and variances from sums about a center, which may be any.

Sums of squares about 0 would lose the digits that variances need; those about a mean of earlier weights lose few.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, O window offsets, n a piece of
the children, M of the parents' positions, J parent types, A rows and C columns of a pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from encapkeras.functional.routing.vote_sums import distance, gather, moments
from encapkeras.functional.routing.window_pieces import Tensors
from encapkeras.functional.routing.window_votes import WindowVotes

Shares = Callable[[Tensors, Tensors, Tensors], torch.Tensor]
"""The weights of votes, from `(logits, children, weights)`: from one log density, or none, `(n, M, J)`, children `(n,
M)` and weights `(n, J)`. Where J is 1, all parents have the same."""


class Sums(NamedTuple):
    """Sums of weights, and of weighted votes and their squares relative to a center."""

    amount_MJ: torch.Tensor
    first_MAJC: torch.Tensor
    second_MAJC: torch.Tensor


class Gaussian(NamedTuple):
    """Weighted mean and variance of votes."""

    mean_MAJC: torch.Tensor
    variance_MAJC: torch.Tensor


class Density(NamedTuple):
    """What the log density `constant + sum_e factor_e (vote_e - mean_e)^2` of votes is made of."""

    constant_BPQJ: torch.Tensor
    mean_BPQAJC: torch.Tensor
    factor: torch.Tensor


class WindowGaussians:
    """Sums and log densities of the votes of windows."""

    def __init__(self, votes: WindowVotes) -> None:
        self.votes = votes

    def sums(
        self,
        shares: Shares,
        children: Sequence[torch.Tensor],
        center_BPQAJC: torch.Tensor,
        density: Density | torch.Tensor | None = None,
        weights: Sequence[torch.Tensor] = (),
    ) -> Sums:
        """Return the sums of votes weighted by `shares(log density, children, weights)`.

        Children are maps `(B, H, W, N)`, weights `(O, N, J)`; a density may be all its logarithms, of `rivals`.
        """
        return Sums(*self._sum(self.weigh, shares, children, [center_BPQAJC], density, weights))

    def mean(
        self,
        shares: Shares,
        children: Sequence[torch.Tensor],
        density: Density | torch.Tensor | None = None,
        weights: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return the mean of votes weighted by shares, as `sums`; 0 where there is no weight."""
        amount_BPQJ, sum_BPQAJC = self._sum(_amount_and_sum, shares, children, [], density, weights)
        return sum_BPQAJC / _above_0(amount_BPQJ)[..., None, :, None]

    def _sum(
        self,
        weigh: Callable[..., Tensors],
        shares: Shares,
        children: Sequence[torch.Tensor],
        centers: Sequence[torch.Tensor],
        density: Density | torch.Tensor | None,
        weights: Sequence[torch.Tensor],
    ) -> Tensors:
        given, known = len(centers), 1 + len(children)
        links = [density] if isinstance(density, torch.Tensor) else []
        of_parents = density if isinstance(density, Density) else ()

        def contribution(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            logits = children[known:] or ((self._log_density(vote_nMAJC, parents[given:]),) if of_parents else ())
            share_nMJ = shares(logits, children[1:known], weights)
            return weigh(share_nMJ.expand(-1, -1, vote_nMAJC.shape[3]), vote_nMAJC, *parents[:given])

        return self.votes.sum(contribution, children, weights, [*centers, *of_parents], links)

    def rivals(self, density: Density) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log densities `(B, P, Q, O, N, J)`, and the log of their sum over all parents that a child feeds."""

        def logit(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            return (self._log_density(vote_nMAJC, parents),)

        return self.votes.rivals(logit, density)

    def mean_alike(self, share_BHWN: torch.Tensor) -> torch.Tensor:
        """Return the mean of the votes where a child has the same weight for all parents: a convolution."""
        amount_BPQ = self.votes.windows.sums(share_BHWN.sum(3))
        return self.votes.sum_alike(share_BHWN) / _above_0(amount_BPQ)[..., None, None, None]

    def _log_density(self, vote_nMAJC: torch.Tensor, density: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the log density of votes, `(n, M, J)`."""
        constant_MJ, mean_MAJC, factor = density
        return constant_MJ + self.away(vote_nMAJC, mean_MAJC, factor)

    @staticmethod
    def away(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return `sum_e factor_e (vote_e - mean_e)^2`."""
        return distance(vote_nMAJC, mean_MAJC, factor)

    @staticmethod
    def weigh(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Tensors:
        """Return what votes add to the sums of their parents."""
        return weighted_sums(share_nMJ, vote_nMAJC, center_MAJC)


def alike(logits: Tensors, children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return the same weight for all parents: that of the child."""
    return children[0].unsqueeze(-1)


def fixed(logits: Tensors, children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return the weight of the child times fixed coefficients."""
    return children[0].unsqueeze(-1) * weights[0].unsqueeze(1)


def of_position(logits: Tensors, children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return the weight of the child, shared by the parents of each position."""
    return logits[0].softmax(-1) * children[0].unsqueeze(-1)


def of_child(logits: Tensors, children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return the weight of the child, shared by all its parents; the second of the children is the total of `rivals`.

    No share exceeds 1 but that of children in the padding, which have no total: times their weight 0 it must be 0.
    """
    return (logits[0] - children[1].unsqueeze(-1)).clamp_max(0).exp() * children[0].unsqueeze(-1)


def weighted_sums(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Sums:
    """Return what children add to the sums of their parents."""
    return Sums(share_nMJ.sum(0), *moments(share_nMJ, vote_nMAJC, center_MAJC))


def gaussian(sums: Sums, center_MAJC: torch.Tensor, epsilon: float) -> Gaussian:
    """Return `mean = sum(c v)` and `variance = sum(c (v - mean)^2)`, with `c = weight / (sum of weights + epsilon)`."""
    amount_M1J1 = sums.amount_MJ[..., None, :, None]
    inverse_M1J1 = (amount_M1J1 + epsilon).reciprocal()
    shift_MAJC = (sums.first_MAJC - epsilon * center_MAJC) * inverse_M1J1  # of the mean from the center
    second_MAJC = sums.second_MAJC + shift_MAJC * (shift_MAJC * amount_M1J1 - 2 * sums.first_MAJC)
    return Gaussian(center_MAJC + shift_MAJC, (second_MAJC * inverse_M1J1).clamp_min(0))


def sums_about_mean(
    votes: WindowGaussians,
    shares: Shares,
    children: Sequence[torch.Tensor],
    density: Density | torch.Tensor | None = None,
    weights: Sequence[torch.Tensor] = (),
) -> tuple[torch.Tensor, Sums]:
    """Return the mean of the weighted votes, and the sums about it.

    About another mean, variances lose the digits that shares decide: in float32 all, if a parent gets one child.
    """
    with torch.no_grad():
        center_BPQAJC = votes.mean(shares, children, density, weights)
    return center_BPQAJC, votes.sums(shares, children, center_BPQAJC, density, weights)


def mean_of(sums: Sums, center_MAJC: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of the votes; the center where there is no weight."""
    return center_MAJC + sums.first_MAJC / _above_0(sums.amount_MJ)[..., None, :, None]


def _above_0(amount: torch.Tensor) -> torch.Tensor:
    return amount.clamp_min(torch.finfo(amount.dtype).tiny)


def _amount_and_sum(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor) -> Tensors:
    return share_nMJ.sum(0), gather(share_nMJ, vote_nMAJC)
