"""The votes of children in windows, and their products with what belongs to the parents.

A pose is a vector of D numbers, whose vote is `W u`; or a matrix of A rows, row-major in its vector, whose vote is the
matrix product `U W`. Votes are kept by rows, a vector being one row.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, D their dimension, O window
offsets, J parent types, E their dimension, A rows and C columns of a pose (E = A * C); n a piece of the children, M
of the parents' positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import Competition, check_coefficients, check_map
from encapkeras.functional.routing.vote_sums import gather
from encapkeras.functional.routing.window_pieces import Tensors, each_child, sum_children
from encapkeras.functional.routing.windows import Windows, fold_logsumexp
from encapkeras.functional.torch_support.fake_tensors import is_traced

Pose = Literal["vector", "matrix"]
Side = int | tuple[int, int]
"""A number of rows and of columns: one for both, or two."""
_FEW = 1 << 22
"""Numbers of votes that are kept, where there is one position of parents: 16 MB in float32."""
VoteContribution = Callable[[torch.Tensor, Tensors, Tensors, Tensors], Tensors]
"""A `Contribution` that has the votes `(n, M, A, J, C)` of its piece as its first argument."""


class WindowVotes:
    """What children vote for the parents of their windows; never made all at once, unless they are few.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        weight: `(K_h, K_w, N, J, E, D)` for vectors, `(K_h, K_w, N, J, X, C)` for matrices of X columns; or `(1, 1, N,
            J, ...)` for all offsets of a `window`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: What a capsule is: a `vector` or a `matrix`.
        bias: Added to the votes; `(O, N, A, J, C)`, or 1 in place of N or J.
        offsets: Added to all votes from an offset of the window, `(K_h, K_w, E)`.
        window: Rows and columns of the window; those of the weight if not given.

    Raises:
        ArgumentError: `pose`, `strides`, `padding` or `window` has an invalid value.
        ShapeError: The sizes do not match.
    """

    def __init__(
        self,
        capsules: torch.Tensor,
        weight: torch.Tensor,
        strides: Side = 1,
        padding: Side = 0,
        pose: Pose = "vector",
        bias: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
        window: Side | None = None,
    ) -> None:
        self.rows, self.columns = _check_votes(capsules, weight, pose)
        self.outputs = weight.shape[3]
        self.dim = self.rows * self.columns
        self.windows = windows_of(weight, strides, padding, window)
        self.size = self.windows.output_size(*capsules.shape[1:3])
        self.capsules = capsules
        votes = capsules.shape[0] * self.windows.count * capsules.shape[3] * self.outputs * self.dim
        self._keeps = self.size == (1, 1) and votes <= _FEW and not is_traced()
        self._with_graph = torch.is_grad_enabled()
        self._kept: torch.Tensor | None = None
        self._padded, self._unpadded = self.windows.pad(capsules), replace(self.windows, padding=(0, 0))
        self._pose = pose
        self._weights = [_outputs_last(weight, pose).flatten(0, 1).expand(self.windows.count, -1, -1, -1, -1)]
        if offsets is not None:
            window = self.windows.kernel_size
            bias = self.by_position("offsets", offsets, window).flatten(0, 1).unsqueeze(1)
        if bias is not None:
            self._weights.append(bias.expand(-1, capsules.shape[3], -1, -1, -1))

    def sum(
        self,
        contribution: VoteContribution,
        children: Sequence[torch.Tensor] = (),
        weights: Sequence[torch.Tensor] = (),
        parents: Sequence[torch.Tensor] = (),
        links: Sequence[torch.Tensor] = (),
    ) -> Tensors:
        """Sum over the children of each parent, as `sum_children`."""
        padded = [self._padded, *map(self.windows.pad, children)]
        tensors = (padded, [*self._weights, *weights], parents, links)
        made = self._with_votes(contribution)
        return sum_children(made, self._unpadded, self.outputs * self.dim, *tensors, at_once=self._keeps)

    def attend(self, query_BPQAJC: torch.Tensor, competition: Competition = "position") -> torch.Tensor:
        """Sum votes, `(B, P, Q, A, J, C)`, by a softmax of their products with what the parents ask for."""
        if competition == "position" or not self.windows.overlap(self.size):
            return self.sum(_attend, parents=[query_BPQAJC])[0]
        logit_BPQONJ, total_BHWN = self.rivals(_agreement, [query_BPQAJC])
        return self.sum(_compete, [total_BHWN], links=[logit_BPQONJ])[0]

    def rivals(self, logit: VoteContribution, parents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits `(B, P, Q, O, N, J)`, and `log sum exp logit` over all parents of a child, `(B, H, W, N)`.

        These are of every type and position. `logit` gives `(n, M, J)`. Children that feed no parent get 0.
        """

        def contribution(*tensors: Any) -> Tensors:
            (logit_nMJ,) = logit(*tensors)
            return logit_nMJ, logit_nMJ.logsumexp(2)

        logit_BPQONJ, value_BPQON = self.each(contribution, parents)
        return logit_BPQONJ, fold_logsumexp(value_BPQON, self.windows, *self.capsules.shape[1:3])

    def each(self, contribution: VoteContribution, parents: Sequence[torch.Tensor]) -> Tensors:
        """Return what each child is to each parent position, as `each_child`."""
        tensors = ([self._padded], self._weights, parents)
        made = self._with_votes(contribution)
        return each_child(made, self._unpadded, self.outputs * self.dim, *tensors, at_once=self._keeps)

    def sum_alike(
        self, share_BHWN: torch.Tensor | None = None, coefficients: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum votes, `(B, P, Q, A, J, C)`, by shares of the children times fixed coefficients: a convolution.

        All are 1 if not given; coefficients are `(K_h, K_w, N, J)`.
        """
        scaled = self.capsules if share_BHWN is None else self.capsules * share_BHWN.unsqueeze(-1)
        given = len(self._weights)

        def contribution(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            matrices, *bias = weights[:given]
            if coefficients is not None:
                fixed_nJ = weights[given]
                matrices = matrices * fixed_nJ[..., None, None]
                bias = [part_nAJC * fixed_nJ[:, None, :, None] for part_nAJC in bias]
            total_MAJC = summed_votes(children[0], matrices, self.rows, self._pose)
            if not bias:
                return (total_MAJC,)
            share_nM = children[1] if len(children) > 1 else children[0].new_ones(children[0].shape[:2])
            return (total_MAJC + torch.einsum("nm,najc->majc", share_nM, bias[0]),)

        children = [scaled] if share_BHWN is None else [scaled, share_BHWN]
        weights = self._weights if coefficients is None else [*self._weights, self.fixed(coefficients)]
        return sum_children(contribution, self.windows, self.outputs * self.dim, children, weights)[0]

    def fixed(self, coefficients: torch.Tensor) -> torch.Tensor:
        """View fixed coefficients `(K_h, K_w, N, J)` as weights `(O, N, J)`."""
        check_coefficients(coefficients, (*self.windows.kernel_size, self.capsules.shape[3], self.outputs))
        return coefficients.to(self.capsules).flatten(0, 1)

    def parents_of_child(self) -> torch.Tensor:
        """Return `(1, H, W, 1)`: how many windows hold each child of the map."""
        one = torch.ones_like(self.capsules[:1, :, :, :1, 0])
        ones = one.new_zeros(1, *self.size, self.windows.count, 1)
        return fold_logsumexp(ones, self.windows, *one.shape[1:3]).exp().round()

    def exist(self) -> torch.Tensor:
        """Return `(1, P, Q, O, 1)`: which children of a window are on the map, not in the padding."""
        padded_1HW1 = self.windows.pad(torch.ones_like(self.capsules[:1, :, :, :1, 0], dtype=torch.bool))
        at_offsets = [padded_1HW1[:, *self.windows.at(offset, self.size)] for offset in self.windows.offsets()]
        return torch.stack(at_offsets, 3)

    def by_position(self, name: str, given: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """View what is added to the votes of all types `(.., .., E)` by rows, `(.., .., A, 1, C)`."""
        if tuple(given.shape) != (*size, self.dim):
            raise ShapeError(f"{name} must be {(*size, self.dim)}; received {tuple(given.shape)}")
        return self.by_rows(given.to(self.capsules).unsqueeze(-2))

    def by_rows(self, pose_JE: torch.Tensor) -> torch.Tensor:
        """View poses `(..., J, E)` by rows, `(..., A, J, C)`."""
        by_pose: torch.Tensor = pose_JE.unflatten(-1, (self.rows, self.columns)).movedim(-3, -1)
        return by_pose.contiguous().mT  # as votes lie in memory

    def _with_votes(self, contribution: VoteContribution) -> Callable[[Tensors, Tensors, Tensors], Tensors]:
        given = len(self._weights)

        def with_votes(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
            vote_nMAJC = self._kept
            if vote_nMAJC is None:
                vote_nMAJC = _votes(children[0], weights[0], self.rows, self._pose)
                if given > 1:
                    vote_nMAJC = vote_nMAJC + weights[1].unsqueeze(1)
            if self._keeps and torch.is_grad_enabled() == self._with_graph:
                self._kept = vote_nMAJC
            return contribution(vote_nMAJC, children, weights[given:], parents)

        return with_votes


def as_poses(row_AJC: torch.Tensor) -> torch.Tensor:
    """Return poses by rows `(..., A, J, C)` as `(..., J, E)`."""
    return row_AJC.movedim(-3, -2).flatten(-2).contiguous()


def _agreement(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    """Return the products of votes with the parents' queries, `(n, M, J)`."""
    return ((vote_nMAJC * parents[0]).sum((2, 4)),)


def _attend(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    (logit_nMJ,) = _agreement(vote_nMAJC, children, weights, parents)
    return (gather(logit_nMJ.softmax(2), vote_nMAJC),)


def _compete(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    _, total_nM, logit_nMJ = children
    return (gather((logit_nMJ - total_nM.unsqueeze(2)).exp(), vote_nMAJC),)


def _votes(child_nMD: torch.Tensor, weight: torch.Tensor, rows: int, pose: Pose) -> torch.Tensor:
    matrix_nXCJ = _by_input(weight, pose)
    types, inner, columns, outputs = matrix_nXCJ.shape
    vote_nRY = child_nMD.reshape(types, -1, inner) @ matrix_nXCJ.flatten(2)
    return vote_nRY.view(types, -1, rows, columns, outputs).mT


def summed_votes(child_nMD: torch.Tensor, weight: torch.Tensor, rows: int, pose: Pose) -> torch.Tensor:
    """Return the sums `(M, A, J, C)` of the votes of all types."""
    matrix_nXCJ = _by_input(weight, pose)
    inner, columns, outputs = matrix_nXCJ.shape[1:]
    # Each row of a parent's pose depends on that row of all children's: they are the components of one vector.
    row_MAY = child_nMD.reshape(*child_nMD.shape[:2], rows, inner).permute(1, 2, 0, 3).flatten(2)
    total_MAY = row_MAY @ matrix_nXCJ.flatten(0, 1).flatten(1)
    return total_MAY.view(*total_MAY.shape[:2], columns, outputs).mT


def _by_input(weight: torch.Tensor, pose: Pose) -> torch.Tensor:
    return weight.permute(0, 3, 2, 1) if pose == "vector" else weight.permute(0, 2, 3, 1)


def _outputs_last(weight: torch.Tensor, pose: Pose) -> torch.Tensor:
    """Return a weight `(K_h, K_w, N, J, ...)` whose axis J is the last in memory.

    So votes have it there, and shares, which have no components, go along memory with them.
    """
    axes, back = ((5, 4, 3), (5, 4, 3)) if pose == "vector" else ((4, 5, 3), (5, 3, 4))
    return weight.permute(0, 1, 2, *axes).contiguous().permute(0, 1, 2, *back)


def windows_of(weight: torch.Tensor, strides: Side, padding: Side, window: Side | None) -> Windows:
    """Return the windows of a weight `(K_h, K_w, ...)`; of `(1, 1, ...)`, those that are given."""
    own = (weight.shape[0], weight.shape[1])
    kernel_size = own if window is None else pair("window", window, 1)
    if own not in (kernel_size, (1, 1)):
        raise ShapeError(
            f"window must be {own}, as weight {tuple(weight.shape)} has matrices for each offset; received {window!r}. "
            "Leave it out, or give (1, 1, ...): matrices for all offsets"
        )
    return Windows(kernel_size, pair("strides", strides, 1), pair("padding", padding, 0))


def pair(name: str, value: Side, least: int) -> tuple[int, int]:
    """Return rows and columns of an argument that may be one number for both."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or not all(type(number) is int and number >= least for number in both):
        raise ArgumentError(f"{name} must be a whole number of at least {least}, or two of them; received {value!r}")
    return both


def _check_votes(capsules: torch.Tensor, weight: torch.Tensor, pose: Pose) -> tuple[int, int]:
    """Return rows and columns of the votes."""
    if pose not in ("vector", "matrix"):
        raise ArgumentError(f"pose must be 'vector' or 'matrix'; received {pose!r}")
    for name, tensor in (("capsules", capsules), ("weight", weight)):
        if not tensor.is_floating_point():
            raise ArgumentError(f"{name} must be of a floating type; received {tensor.dtype}")
    check_map(capsules)
    shape, matrices = tuple(capsules.shape), tuple(weight.shape)
    sizes = "output dim, input dim" if pose == "vector" else "columns of the input, columns of the output"
    if len(matrices) != 6 or 0 in matrices:
        raise ShapeError(
            f"weight must be (window height, window width, types, outputs, {sizes}), none of them 0, or with the rows "
            f"and columns of the parents' map before them; received {matrices}"
        )
    what, inner = ("dimension", matrices[5]) if pose == "vector" else ("rows of", matrices[4])
    fits = inner == shape[4] if pose == "vector" else shape[4] % inner == 0
    if matrices[2] != shape[3] or not fits:
        raise ShapeError(
            f"weight {matrices} takes {matrices[2]} types of {what} {inner}, but capsules {shape} are {shape[3]} types "
            f"of dimension {shape[4]}"
        )
    return (1, matrices[4]) if pose == "vector" else (shape[4] // inner, matrices[5])
