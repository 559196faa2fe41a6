"""Votes by one matrix per type for all offsets of a window: children are gathered before they are mapped.

A vote is linear in its child, so `sum_i c_ij W_nj u_i = sum_n W_nj (sum_o c_oj u_o)` and `W_nj u_i . p_j = u_i . q_nj`
with the query `q_nj = W_nj^T p_j`: there are no votes, and a matrix is used once for a window in place of once for each
of its O offsets.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, D their dimension, O window
offsets, J parent types, A rows of a pose, X columns of a child and C of a parent (D = A * X); n a piece of the child
types, M of the parents' positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from encapkeras.functional.routing.routing_inputs import Competition
from encapkeras.functional.routing.window_pieces import Tensors, each_child, sum_children
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes, pair, summed_votes
from encapkeras.functional.routing.windows import fold_logsumexp

Shares = Callable[[Tensors, Tensors, Tensors], torch.Tensor]
"""The shares `(M, n, O, J)` of a piece of whole windows, from `(children, weights, parents)`; of these the first are
capsules `(M, n, O, D)` and matrices `(n, J, X, C)`."""


def votes_of(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "vector",
    window: Side | None = None,
) -> WindowVotes:
    """Return the votes, gathered first where one matrix per type is shared by the offsets of a window."""
    if window is not None and weight.shape[:2] == (1, 1) and pair("window", window, 1) != (1, 1):
        return TypeVotes(capsules, weight, strides, padding, pose, window=window)
    return WindowVotes(capsules, weight, strides, padding, pose, window=window)


class TypeVotes(WindowVotes):
    """Votes by a weight `(1, 1, N, J, ...)` for all offsets of a window, without bias; the arguments of `WindowVotes`.

    The methods here never make votes.
    """

    def __init__(
        self, capsules: torch.Tensor, weight: torch.Tensor, strides: Side, padding: Side, pose: Pose, *, window: Side
    ) -> None:
        super().__init__(capsules, weight, strides, padding, pose, window=window)
        self._weight = weight[0, 0]
        self._matrix_NJXC = self._weight.mT if pose == "vector" else self._weight

    def sum_alike(
        self, share_BHWN: torch.Tensor | None = None, coefficients: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum votes, `(B, P, Q, A, J, C)`, by shares of the children times fixed coefficients."""
        scaled_BHWND = self.capsules if share_BHWN is None else self.capsules * share_BHWN.unsqueeze(-1)
        if coefficients is None:
            child_NMD = self.windows.sums(scaled_BHWND).movedim(3, 0).flatten(1, 3)
            total_MAJC = summed_votes(child_NMD, self._weight, self.rows, self._pose)
            total_BPQAJC: torch.Tensor = total_MAJC.unflatten(0, (scaled_BHWND.shape[0], *self.size))
            return total_BPQAJC

        def contribution(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            gathered_MnJD = torch.einsum("nmod,noj->mnjd", children[0], weights[1])
            return (self._map(gathered_MnJD, weights[0]),)

        weights = [self._matrix_NJXC, self.fixed(coefficients).transpose(0, 1)]
        return sum_children(contribution, self.windows, self._numbers, [scaled_BHWND], weights, whole=True)[0]

    def attend(self, query_BPQAJC: torch.Tensor, competition: Competition = "position") -> torch.Tensor:
        """Sum votes, `(B, P, Q, A, J, C)`, by a softmax of their products with what the parents ask for."""
        if competition == "position" or not self.windows.overlap(self.size):
            return self.sum_shares(_attention, parents=[query_BPQAJC])[1]
        tensors = ([self.capsules], [self._matrix_NJXC], [query_BPQAJC])
        (value_BPQON,) = each_child(_log_total, self.windows, self._numbers, *tensors, whole=True)
        total_BHWN = fold_logsumexp(value_BPQON, self.windows, *self.capsules.shape[1:3])
        return self.sum_shares(_competition, [total_BHWN], parents=[query_BPQAJC])[1]

    def sum_shares(
        self,
        shares: Shares,
        children: Sequence[torch.Tensor] = (),
        weights: Sequence[torch.Tensor] = (),
        parents: Sequence[torch.Tensor] = (),
    ) -> Tensors:
        """Return the sums of shares `(B, P, Q, J)`, and of votes by these shares `(B, P, Q, A, J, C)`."""

        def contribution(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            children = _by_parent(children)
            share_MnOJ = shares(children, weights, parents)
            gathered_MnJD = share_MnOJ.mT @ children[0]
            return share_MnOJ.sum((1, 2)), self._map(gathered_MnJD, weights[0])

        tensors = ([self.capsules, *children], [self._matrix_NJXC, *weights], parents)
        return sum_children(contribution, self.windows, self._numbers, *tensors, whole=True)

    @property
    def _numbers(self) -> int:
        """How many numbers a type of children takes for one parent position."""
        dim = self.capsules.shape[4]
        return self.outputs * dim + self.windows.count * (self.outputs + dim)

    def _map(self, gathered_MnJD: torch.Tensor, matrix_nJXC: torch.Tensor) -> torch.Tensor:
        row_MnJAX = gathered_MnJD.unflatten(3, (self.rows, matrix_nJXC.shape[2]))
        return torch.einsum("mnjax,njxc->majc", row_MnJAX, matrix_nJXC)


def _by_parent(children: Tensors) -> Tensors:
    """View children `(n, M, ...)` as `(M, n, ...)`, as they lie in memory."""
    return tuple(child.transpose(0, 1) for child in children)


def _agreement(children: Tensors, weights: Tensors, parents: Tensors) -> torch.Tensor:
    """Return the products of votes with the parents' queries, `(M, n, O, J)`."""
    query_MnJD = torch.einsum("majc,njxc->mnjax", parents[0], weights[0]).flatten(3)
    return children[0] @ query_MnJD.mT


def _attention(children: Tensors, weights: Tensors, parents: Tensors) -> torch.Tensor:
    return _agreement(children, weights, parents).softmax(3)


def _competition(children: Tensors, weights: Tensors, parents: Tensors) -> torch.Tensor:
    return (_agreement(children, weights, parents) - children[1].unsqueeze(3)).exp()


def _log_total(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    return (_agreement(_by_parent(children), weights, parents).logsumexp(3).transpose(0, 1),)
