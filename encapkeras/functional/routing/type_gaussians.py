"""Gaussians of votes by one matrix per type for all offsets of a window, without votes.

A row of a vote is linear in that row of its child's pose, `v = u W`, so its square is linear in the products of the
components of u. With the features `F = [1, u_ax, u_ax u_ay (x <= y)]` of all rows a, sums of weighted votes and of
their squares are sums of weighted features, contracted with W and the products of its rows; and a log density is the
product of F with a query of the parent. What a window adds to the votes of each offset extends u, and W by ones.

Squares lose digits where numbers are far from 0. So children are taken relative to an origin, the mean child of their
type in their window, each weighted by its activation. Nothing depends on the origin: it is a constant.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, O window offsets, J parent
types, A rows of a pose, X columns of a child, C of a parent, S = X (X + 1) / 2 products, Y = 1 + A (X + S) features; n
a piece of the child types, M of the parents' positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from encapkeras.functional.routing.type_votes import TypeVotes, votes_of
from encapkeras.functional.routing.vote_moments import pairs
from encapkeras.functional.routing.window_gaussians import Density, Shares, Sums, WindowGaussians, mean_of
from encapkeras.functional.routing.window_gaussians import alike as alike_for_parents
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes
from encapkeras.functional.routing.windows import Tensors, each_child, sum_children
from encapkeras.functional.torch_support.fake_tensors import has_values


def gaussians_of(
    capsules: torch.Tensor,
    active_BHWN: torch.Tensor,
    weight: torch.Tensor,
    strides: Side,
    padding: Side,
    pose: Pose,
    window: Side | None,
    offsets: torch.Tensor | None,
) -> WindowGaussians:
    """Return what sums votes: by features, where one matrix per type is shared by the offsets of a window."""
    votes = votes_of(capsules, weight, strides, padding, pose, window)
    if isinstance(votes, TypeVotes):
        return TypeGaussians(votes, active_BHWN, weight[0, 0].mT if pose == "vector" else weight[0, 0], offsets)
    return WindowGaussians(WindowVotes(capsules, weight, strides, padding, pose, offsets=offsets, window=window))


class TypeGaussians(WindowGaussians):
    """The sums and log densities of `WindowGaussians`, by features."""

    def __init__(
        self, votes: TypeVotes, active_BHWN: torch.Tensor, matrix_NJXC: torch.Tensor, offsets: torch.Tensor | None
    ) -> None:
        super().__init__(votes)
        self._children = [votes.capsules, active_BHWN]
        self._weights = [matrix_NJXC]
        self._base_AJC = votes.capsules.new_zeros(votes.rows, 1, votes.columns)  # what is added to all votes
        if offsets is not None:
            offset_OA1C = votes.by_position("offsets", offsets, votes.windows.kernel_size).flatten(0, 1)
            self._base_AJC = offset_OA1C[0]
            added_OAC = (offset_OA1C - offset_OA1C[:1]).squeeze(2)
            added_OAC, one_JXC = _varying(added_OAC, matrix_NJXC.shape[1])
            types = len(matrix_NJXC)
            self._weights = [
                torch.cat([matrix_NJXC, one_JXC.expand(types, -1, -1, -1)], 2),
                added_OAC.expand(types, -1, -1, -1),
            ]

    def sums(
        self,
        shares: Shares,
        children: Sequence[torch.Tensor],
        center_BPQAJC: torch.Tensor,
        density: Density | None = None,
        weights: Sequence[torch.Tensor] = (),
    ) -> Sums:
        """See `WindowGaussians`."""
        given = len(self._weights)

        def contribution(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            window = self._window(children, weights)
            logits = (window.log_density(parents[1:]),) if density else ()
            share_nMOJ = shares(logits, children[2:], weights[given:])
            return window.sums(share_nMOJ, parents[0])

        tensors = (
            [*self._children, *children],
            [*self._weights, *(weight.transpose(0, 1) for weight in weights)],
            [self._without_base(center_BPQAJC), *self._parents(density)],
        )
        return Sums(*sum_children(contribution, self.votes.windows, self._numbers, *tensors, whole=True))

    def each(self, reduce: Callable[[torch.Tensor], torch.Tensor], density: Density) -> torch.Tensor:
        """See `WindowGaussians`."""

        def contribution(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            return (reduce(self._window(children, weights).log_density(parents)),)

        tensors = (self._children, self._weights, self._parents(density))
        return each_child(contribution, self.votes.windows, self._numbers, *tensors, whole=True)[0]

    def mean_alike(self, share_BHWN: torch.Tensor) -> torch.Tensor:
        """See `WindowGaussians`."""
        zero = share_BHWN.new_zeros(share_BHWN.shape[0], *self.votes.size, *self._weights_of_parent)
        return mean_of(self.sums(alike_for_parents, [share_BHWN], zero), zero)

    def _window(self, children: Tensors, weights: Tensors) -> _Window:
        row_nMOAX = children[0].unflatten(3, (self.votes.rows, -1))
        if len(self._weights) > 1:
            added_nMOAX = weights[1].unsqueeze(1).expand(-1, row_nMOAX.shape[1], -1, -1, -1)
            row_nMOAX = torch.cat([row_nMOAX, added_nMOAX], 4)
        origin_nMAX = _mean_child(row_nMOAX.detach(), children[1].detach())
        moved_nMOAX = row_nMOAX - origin_nMAX.unsqueeze(2)
        return _Window(_features(moved_nMOAX), origin_nMAX, weights[0], _products(weights[0]))

    def _parents(self, density: Density | None) -> Sequence[torch.Tensor]:
        return density._replace(mean_BPQAJC=self._without_base(density.mean_BPQAJC)) if density else ()

    def _without_base(self, vote_BPQAJC: torch.Tensor) -> torch.Tensor:
        return vote_BPQAJC - self._base_AJC

    @property
    def _weights_of_parent(self) -> tuple[int, int, int]:
        return self.votes.rows, self.votes.outputs, self.votes.columns

    @property
    def _numbers(self) -> int:
        """How many numbers a type of children takes for one parent position."""
        columns, outputs = self._weights[0].shape[2], self.votes.outputs
        features = 1 + self.votes.rows * (columns + columns * (columns + 1) // 2)
        return outputs * (features + self.votes.dim) + self.votes.windows.count * (outputs + features)


class _Window(NamedTuple):
    """A piece of whole windows."""

    feature_nMOY: torch.Tensor
    origin_nMAX: torch.Tensor
    matrix_nJXC: torch.Tensor
    product_nJSC: torch.Tensor

    def log_density(self, density: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return `(n, M, O, J)`."""
        constant_MJ, mean_MAJC, factor_MAJC = density
        away_nMAJC = self._votes_from(mean_MAJC)
        pull_nMAJC = factor_MAJC * away_nMAJC
        one_nMJ1 = (constant_MJ + (pull_nMAJC * away_nMAJC).sum((2, 4))).unsqueeze(3)
        linear_nMJAX = 2 * torch.einsum("nmajc,njxc->nmjax", pull_nMAJC, self.matrix_nJXC)
        square_nMJAS = torch.einsum("majc,njsc->nmjas", factor_MAJC, self.product_nJSC)
        query_nMJY = torch.cat([one_nMJ1, linear_nMJAX.flatten(3), square_nMJAS.flatten(3)], 3)
        return self.feature_nMOY @ query_nMJY.mT

    def sums(self, share_nMOJ: torch.Tensor, center_MAJC: torch.Tensor) -> Tensors:
        """Return what a piece adds to `Sums`."""
        gathered_nMJY = share_nMOJ.mT @ self.feature_nMOY
        rows, columns = self.origin_nMAX.shape[2:]
        sizes = [1, rows * columns, rows * self.product_nJSC.shape[2]]
        one_nMJ1, linear_nMJY, square_nMJY = gathered_nMJY.split(sizes, 3)
        linear_nMAJC = torch.einsum("nmjax,njxc->nmajc", linear_nMJY.unflatten(3, (rows, -1)), self.matrix_nJXC)
        square_MAJC = torch.einsum("nmjas,njsc->majc", square_nMJY.unflatten(3, (rows, -1)), self.product_nJSC)
        away_nMAJC = self._votes_from(center_MAJC)
        moved_nMAJC = away_nMAJC * one_nMJ1.unsqueeze(2)
        second_MAJC = square_MAJC + (away_nMAJC * (2 * linear_nMAJC + moved_nMAJC)).sum(0)
        amount_MJ = one_nMJ1.squeeze(3).sum(0).expand(-1, center_MAJC.shape[2])
        return amount_MJ, (linear_nMAJC + moved_nMAJC).sum(0), second_MAJC

    def _votes_from(self, center_MAJC: torch.Tensor) -> torch.Tensor:
        """Return the votes of the origins relative to a center, `(n, M, A, J, C)`."""
        return torch.einsum("nmax,njxc->nmajc", self.origin_nMAX, self.matrix_nJXC) - center_MAJC


def _mean_child(row_nMOAX: torch.Tensor, active_nMO: torch.Tensor) -> torch.Tensor:
    """Return the mean `(n, M, A, X)` of the children of a type in a window, by activation where there is any."""
    amount_nM1 = active_nMO.sum(2, keepdim=True)
    share_nMO = torch.where(amount_nM1 > 0, active_nMO / amount_nM1, 1 / active_nMO.shape[2])
    return torch.einsum("nmo,nmoax->nmax", share_nMO, row_nMOAX)


def _features(row_nMOAX: torch.Tensor) -> torch.Tensor:
    one_nMO1 = torch.ones_like(row_nMOAX[..., 0, :1])
    return torch.cat([one_nMO1, row_nMOAX.flatten(3), pairs(row_nMOAX, 4).flatten(3)], 3)


def _products(matrix_nJXC: torch.Tensor) -> torch.Tensor:
    """Return `W_xc W_yc` for all x <= y, doubled for x < y, which represents both."""
    columns = matrix_nJXC.shape[2]
    times = [1.0 if x == y else 2.0 for x in range(columns) for y in range(x, columns)]
    return pairs(matrix_nJXC, 2) * matrix_nJXC.new_tensor(times).unsqueeze(1)


def _varying(added_OAC: torch.Tensor, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns that are not 0 everywhere, and rows `(J, X, C)` of a matrix that add them to votes."""
    one_CC = torch.eye(added_OAC.shape[2], dtype=added_OAC.dtype, device=added_OAC.device)
    if has_values(added_OAC) and not added_OAC.requires_grad:
        varies_C = (added_OAC != 0).any(0).any(0)
        added_OAC, one_CC = added_OAC[:, :, varies_C], one_CC[varies_C]
    return added_OAC, one_CC.expand(outputs, -1, -1)
