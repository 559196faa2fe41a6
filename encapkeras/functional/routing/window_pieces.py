"""Sums over the children in `windows`, piece by piece.

A routing sums what its children contribute. All votes together take `I / N` times as much memory as those of one window
offset; so `sum_children` goes through the children in pieces, and makes each piece anew in the backward pass.
`each_child` does the same for what children are to their parents one by one, such as the density of a child's votes. A
piece has the children at one offset of the windows; or whole windows, where what is made of them is gathered over the
offsets.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, O window offsets, I = O * N
children of a parent, n a piece of N, M a piece of the parents' positions in all samples.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from encapkeras.functional.routing.vote_sums import only_gradients
from encapkeras.functional.routing.windows import Windows
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced
from encapkeras.functional.torch_support.plain_gradients import gradients_of
from encapkeras.functional.torch_support.precision import without_autocast

Tensors = tuple[torch.Tensor, ...]
Contribution = Callable[[Tensors, Tensors, Tensors], Tensors]
"""What is made of a piece of the children, from `(children, weights, parents)`; for sums `(M, ...)`, or `(n, M, ...)`.

Children are `(n, M, ...)`, weights `(n, ...)` and parents `(M, ...)`; children of whole windows `(n, M, O, ...)`.
"""

_PIECE = {"cpu": 3 << 18}
"""Numbers of all votes of a piece: on CPUs for the cache; elsewhere as many as keep the device busy."""
_PIECE_ELSEWHERE = 1 << 26
_TYPES = 8
"""Types of a piece: few, so that it has many positions, for which their matrices are read once."""


def sum_children(
    contribution: Contribution,
    windows: Windows,
    votes_of_child: int,
    children: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    parents: Sequence[torch.Tensor] = (),
    links: Sequence[torch.Tensor] = (),
    *,
    whole: bool = False,
    at_once: bool = False,
) -> Tensors:
    """Sum what all children contribute to each parent position, piece by piece.

    Memory is that of one piece, forward and backward. Derivatives of any order.

    Args:
        contribution: What a piece of the children adds; it may use no other tensors that need a gradient.
        windows: Where the children of a parent are.
        votes_of_child: How many numbers a child gives to one parent position, `J * E`; it sets the size of the pieces.
        children: Maps `(B, H, W, N, ...)`.
        weights: `(O, N, ...)`, the offsets by rows; for whole windows `(N, ...)`.
        parents: `(B, P, Q, ...)`.
        links: What a child is to a parent position, `(B, P, Q, O, N, ...)`, as `each_child` returns it; the last of
            the children of a piece. Not for whole windows.
        whole: Whether a piece has whole windows.
        at_once: Whether there is one piece, with a graph: for few votes, which are kept.

    Returns:
        The sums, each `(B, P, Q, ...)`.
    """
    return _evaluate(
        _Plan(contribution, windows, votes_of_child, True, whole, at_once), children, links, weights, parents
    )


def each_child(
    contribution: Contribution,
    windows: Windows,
    votes_of_child: int,
    children: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    parents: Sequence[torch.Tensor] = (),
    *,
    whole: bool = False,
    at_once: bool = False,
) -> Tensors:
    """Return what each child is to each parent position, `(B, P, Q, O, N, ...)`; the arguments of `sum_children`."""
    plan = _Plan(contribution, windows, votes_of_child, False, whole, at_once)
    found = _evaluate(plan, children, [], weights, parents)
    if whole:
        return tuple(part.transpose(3, 4) for part in found)
    return tuple(part.unflatten(3, weights[0].shape[:2]) for part in found)


def _evaluate(
    plan: _Plan,
    children: Sequence[torch.Tensor],
    links: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    parents: Sequence[torch.Tensor],
) -> Tensors:
    padded = [plan.windows.pad(child) for child in children]
    size = plan.windows.output_size(*children[0].shape[1:3])
    if plan.whole:
        weights = [weight.unsqueeze(0) for weight in weights]
    elif plan.windows.kernel_size == padded[0].shape[1:3] or is_traced():
        # One parent, or a program that should be short: children are as many types at one offset.
        padded = [plan.windows.unfold(child, size) for child in padded]
        weights = [weight.flatten(0, 1).unsqueeze(0) for weight in weights]
        plan = replace(plan, windows=Windows((1, 1)))
    plan = replace(plan, size=size, children=len(padded), links=len(links), weights=len(weights))
    tensors = (*padded, *(link.flatten(3, 4) for link in links), *weights, *parents)
    with without_autocast(padded[0]):
        if is_traced() or plan.at_once:
            return plan.results(tensors)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            return plan.written(tensors)
        return _Evaluation.apply(plan, *tensors)  # type: ignore[no-any-return]


class _Piece(NamedTuple):
    samples: slice
    rows: slice
    offset: tuple[int, int]
    place: int  # of the offset among all
    types: slice


@dataclass(frozen=True)
class _Plan:
    """What is made of the children, and how they are divided into pieces."""

    contribution: Contribution
    windows: Windows
    votes_of_child: int
    sums: bool
    whole: bool
    at_once: bool = False
    size: tuple[int, int] = (0, 0)
    children: int = 0
    links: int = 0
    weights: int = 0

    def pieces(self, first: torch.Tensor) -> Iterator[_Piece]:
        """Yield all pieces: first all children of some parents, by their offsets and types, then those of others."""
        batch, types = first.shape[0], first.shape[3]
        height, width = self.size
        samples_step, rows_step, types_step = batch, height, types
        whole = is_traced() or self.at_once or not has_values(first) or batch == 0
        if not whole:
            limit = _PIECE.get(first.device.type, _PIECE_ELSEWHERE) / self.votes_of_child
            types_step = _step(types, min(limit, max(_TYPES, limit / (batch * height * width))))
            rows_step = _step(height, limit / (types_step * width))
            samples_step = _step(batch, limit / (types_step * width * height)) if rows_step == height else 1
        for samples in [slice(None)] if whole else _slices(batch, samples_step):
            for rows in _slices(height, rows_step):
                for place, offset in enumerate([(0, 0)] if self.whole else self.windows.offsets()):
                    for kinds in _slices(types, types_step):
                        yield _Piece(samples, rows, offset, place, kinds)

    @property
    def views_of_child(self) -> int:
        """How many views a piece has of each map of children."""
        return self.windows.count if self.whole else 1

    def of_piece(self, piece: _Piece, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return views of what a piece needs of all tensors, as they lie."""
        maps, first = self.children, self.children + self.links
        until = first + self.weights
        places = [self._place(piece, offset) for offset in (self.windows.offsets() if self.whole else [piece.offset])]
        return [
            *(child[piece.samples, *place, piece.types] for child in tensors[:maps] for place in places),
            *(self._of_children(piece, link, tensors[0].shape[3]) for link in tensors[maps:first]),
            *(weight[piece.place, piece.types] for weight in tensors[first:until]),
            *(parent[piece.samples, piece.rows] for parent in tensors[until:]),
        ]

    def by_view(self, needed: list[bool]) -> list[bool]:
        """Return what holds of each tensor for all views of it."""
        of_children = [need for need in needed[: self.children] for _ in range(self.views_of_child)]
        return of_children + needed[self.children :]

    def _place(self, piece: _Piece, offset: tuple[int, int]) -> tuple[slice, slice]:
        rows, columns = self.windows.at(offset, self.size)
        first, last = (rows.start + number * rows.step for number in (piece.rows.start, piece.rows.stop - 1))
        return slice(first, last + 1, rows.step), columns

    def contribute(self, views: list[torch.Tensor]) -> Tensors:
        """Return what a piece adds to sums, `(B, P, Q, ...)`, or is, `(B, P, Q, n, ...)`."""
        first = self.children * self.views_of_child + self.links
        until = first + self.weights
        place = views[0].shape[:3]
        if self.whole:  # in memory by parents, as what they gather
            starts = range(0, first, self.views_of_child)
            whole = [torch.stack(views[start : start + self.views_of_child], 4) for start in starts]
            children = tuple(child.flatten(0, 2).transpose(0, 1) for child in whole)
        else:
            children = tuple(view.movedim(3, 0).flatten(1, 3) for view in views[:first])
        parents = tuple(parent.flatten(0, 2) for parent in views[until:])
        made = self.contribution(children, tuple(views[first:until]), parents)
        return tuple((part if self.sums else part.transpose(0, 1)).unflatten(0, place) for part in made)

    def results(self, tensors: Sequence[torch.Tensor]) -> Tensors:
        """Return all sums, or what all children are, in operations that torch can differentiate."""
        by_samples: dict[int | None, dict[int, list[Tensors]]] = {}
        for piece in self.pieces(tensors[0]):
            parts = by_samples.setdefault(piece.samples.start, {}).setdefault(piece.rows.start, [])
            parts.append(self.contribute(self.of_piece(piece, tensors)))
            if self.sums and len(parts) == 2:
                parts[:] = [tuple(map(torch.add, *parts))]
        return _joined([_joined([_joined(p, 3) for p in rows.values()], 1) for rows in by_samples.values()], 0)

    def written(self, tensors: Sequence[torch.Tensor]) -> Tensors:
        """Return the same, written in place: no gradient is needed."""
        found: list[torch.Tensor] = []
        with torch.no_grad():
            for piece in self.pieces(tensors[0]):
                parts = self.contribute(self.of_piece(piece, tensors))
                found = found or [self._zeros(part, tensors[0]) for part in parts]
                for result, part in zip(found, parts, strict=True):
                    place = self.part_of(piece, result)
                    place += part
        return tuple(found)

    def _zeros(self, part: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return a whole result, which lies in memory as a part of it."""
        sizes = [first.shape[0], *self.size, *part.shape[3:]]
        if not self.sums:
            sizes[3] = first.shape[3] * (1 if self.whole else self.windows.count)
        order = part.dim_order()
        return part.new_zeros([sizes[axis] for axis in order]).permute(_inverse(order))

    def part_of(self, piece: _Piece, result: torch.Tensor) -> torch.Tensor:
        """Return the place of a piece in a result."""
        part = result[piece.samples, piece.rows]
        if self.sums:
            return part
        if self.whole:
            return part[:, :, :, piece.types]
        return self._of_children(piece, result, part.shape[3] // self.windows.count)

    @staticmethod
    def _of_children(piece: _Piece, link: torch.Tensor, types: int) -> torch.Tensor:
        """Return the place of a piece in `(B, P, Q, I, ...)`, of that number of types."""
        first = piece.place * types
        return link[piece.samples, piece.rows, :, first + piece.types.start : first + piece.types.stop]


def _joined(parts: Sequence[Tensors], axis: int) -> Tensors:
    return parts[0] if len(parts) == 1 else tuple(_cat(part, axis) for part in zip(*parts, strict=True))


def _cat(parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """Concatenate tensors; the result lies in memory as they do."""
    order = parts[0].dim_order()
    return torch.cat([part.permute(order) for part in parts], order.index(axis)).permute(_inverse(order))


def _in_order(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor whose axes lie in memory in an order."""
    return tensor.permute(order).contiguous().permute(_inverse(order))


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


class _Evaluation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, plan: _Plan, *tensors: torch.Tensor) -> Tensors:
        context.plan = plan
        context.save_for_backward(*tensors)
        results = plan.written(tensors)
        context.orders = [result.dim_order() for result in results]
        return results

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, tensors = context.plan, context.saved_tensors
        with without_autocast(tensors[0]):
            if torch.is_grad_enabled():  # with create_graph=True
                aliases = [tensor.view_as(tensor) for tensor in tensors]
                return None, *gradients_of(plan.results(aliases), aliases, gradients, create_graph=True)
            gradients = tuple(map(_in_order, gradients, context.orders))
            found = [torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in tensors]
            filled = [tensor if part is None else part for tensor, part in zip(tensors, found, strict=True)]
            needed = plan.by_view([tensor.requires_grad for tensor in tensors])
            for piece in plan.pieces(tensors[0]):
                views = plan.of_piece(piece, tensors)
                leaves = [view.detach().requires_grad_(need) for view, need in zip(views, needed, strict=True)]
                with torch.enable_grad(), only_gradients() if plan.sums else contextlib.nullcontext():
                    made = plan.contribute(leaves)
                parts = gradients_of(made, leaves, [plan.part_of(piece, gradient) for gradient in gradients])
                for place, part in zip(plan.of_piece(piece, filled), parts, strict=True):
                    if part is not None:
                        place += part
        return None, *found


def _step(total: int, wanted: float) -> int:
    """Return the length of equal parts of a total that are not longer than wanted, but at least 1."""
    return max(1, math.ceil(total / math.ceil(total / max(1.0, min(wanted, total)))))


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
