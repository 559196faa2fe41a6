"""Costs between the samples of two sets.

Shape suffixes: B samples of x, A samples of y, F features, Q pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.capsule_dense import capsule_length
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced
from encapkeras.functional.torch_support.once_differentiable import differentiable_once, refuse_second_derivative
from encapkeras.functional.torch_support.precision import full_precision

Cost = Literal["l2", "cosine", "sqeuclidean"]

SHORTEST = 1e-12
"""Length below which a vector has no direction."""

# With fewer features a direct computation is as fast as matrix products on CPUs, and as exact as can be.
_FEW_FEATURES = 32

# `|x|^2 + |y|^2 - 2 x.y` loses a digit where the result is a tenth of the sum. Pairs that are closer are few, since x
# and y are centered first; their differences are computed one by one.
_CLOSE = 0.1

_PIECE = 1 << 18  # numbers of the differences that exist at a time
_PIECE_ELSEWHERE = 1 << 24  # as many as keep a GPU busy

_DIRECT = 1 << 27
"""Differences up to which a GPU takes those of all pairs: the close ones are only found by waiting for it."""


def transport_cost(x: torch.Tensor, y: torch.Tensor, *, cost: Cost = "l2") -> torch.Tensor:
    """Return the costs between the samples of two sets: `C_ij = c(x_i, y_j)`.

    Distances come from one matrix product where that is accurate; those of close pairs from the differences, and on a
    GPU all, unless they are very many. Equal samples have distance 0 exactly, and gradient 0. No tensor is larger than
    the inputs and the result, except on a GPU: backward passes make B * A * F numbers there, in pieces of 64 MB, and at
    once under `torch.compile`. Differentiable once.

    Args:
        x: Samples `(B, F)`. Half precision is computed in float32.
        y: Samples `(A, F)`.
        cost: `l2`: `|x - y|`; `sqeuclidean`: `|x - y|^2`; `cosine`: `1 - x.y / (|x| |y|)`, where a vector shorter than
            1e-12 has cosine 0 with every vector, itself included.

    Returns:
        Costs `(B, A)`, in float32 or float64.

    Raises:
        ArgumentError: `cost` is none of these, x or y is not a tensor of a floating type, or a second derivative is
            asked for.
        ShapeError: The sizes do not match.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> transport_cost(x, x)
        tensor([[0., 5.],
                [5., 0.]])
    """
    if cost not in get_args(Cost):
        raise ArgumentError(f"cost must be one of {', '.join(map(repr, get_args(Cost)))}; received {cost!r}")
    check_samples(x, y)
    with full_precision(x, y) as wide:
        x_BF, y_AF = wide(x), wide(y)
        if cost == "cosine":
            return _cosine_cost(x_BF, y_AF)
        return _distances(x_BF, y_AF, root=cost == "l2")


def check_samples(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check that two sets of samples can be compared."""
    for name, samples in (("x", x), ("y", y)):
        check_floating(name, samples)
        if samples.dim() != 2 or 0 in samples.shape:
            raise ShapeError(f"{name} must be (samples, features), none of them 0; received {tuple(samples.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ShapeError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have the same number of features")


def check_floating(name: str, tensor: torch.Tensor) -> None:
    """Check that a value is a dense tensor of floating-point numbers."""
    if not isinstance(tensor, torch.Tensor):
        raise ArgumentError(f"{name} must be a torch tensor; received {type(tensor).__name__}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        received = f"{tensor.dtype}, layout {tensor.layout}"
        raise ArgumentError(f"{name} must be a dense tensor of a floating type; received {received}")


def _distances(x_BF: torch.Tensor, y_AF: torch.Tensor, *, root: bool) -> torch.Tensor:
    few = x_BF.shape[1] <= _FEW_FEATURES and x_BF.device.type == "cpu"
    if few or is_traced():  # a compiler wants sizes that no values decide
        distance_BA = torch.cdist(x_BF, y_AF, compute_mode="donot_use_mm_for_euclid_dist")
        return differentiable_once(distance_BA if root else distance_BA.square())
    waits = x_BF.device.type not in ("cpu", "meta")
    way = _DirectDistances if waits and len(x_BF) * y_AF.numel() <= _DIRECT else _Distances
    result_BA: torch.Tensor = way.apply(x_BF, y_AF, root)
    return result_BA


def _cosine_cost(x_BF: torch.Tensor, y_AF: torch.Tensor) -> torch.Tensor:
    """Half the square distance of the directions, which keeps the digits that `1 - cosine` would lose."""
    (x_BF, no_x_B), (y_AF, no_y_A) = _directions(x_BF), _directions(y_AF)
    distance_BA = _distances(x_BF, y_AF, root=False)
    # A vector without direction is 0 here and counts half; its cosine is 0, so that the pair costs 1.
    return (distance_BA + no_x_B[:, None] + no_y_A) / 2


def _directions(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of length 1, or 0 where there is no direction, and 1 for each of these."""
    largest = samples.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(samples.dtype).tiny)
    scaled = samples / largest  # so that no square overflows; the direction does not depend on it
    length = capsule_length(scaled)[:, None]
    without = largest * length.detach() < SHORTEST
    directions = scaled / torch.where(without, 1.0, length)
    return torch.where(without, 0.0, directions), without[:, 0].to(samples.dtype)


class _Distances(torch.autograd.Function):
    """Square distances by a matrix product, or their roots; close pairs by their differences."""

    @staticmethod
    def forward(context: Any, x_BF: torch.Tensor, y_AF: torch.Tensor, root: bool) -> torch.Tensor:
        from_center_BF, from_center_AF = _center(x_BF, y_AF)
        sum_BA = from_center_BF.square().sum(1)[:, None] + from_center_AF.square().sum(1)
        square_BA = torch.addmm(sum_BA, from_center_BF, from_center_AF.T, alpha=-2)
        row_Q, column_Q = _close_pairs(square_BA, sum_BA)
        for row, column in _pieces(row_Q, column_Q, x_BF.shape[1]):
            square_BA[row, column] = (x_BF[row] - y_AF[column]).square_().sum(1)
        result_BA = square_BA.sqrt_() if root else square_BA
        context.root = root
        context.save_for_backward(x_BF, y_AF, row_Q, column_Q, result_BA)
        return result_BA

    @staticmethod
    def backward(context: Any, gradient_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        refuse_second_derivative()
        with full_precision(gradient_BA):  # autocast may be on here
            return (*_gradients_of_samples(gradient_BA, *context.saved_tensors, root=context.root), None)


class _DirectDistances(torch.autograd.Function):
    """Square distances, or their roots, and their gradients by the differences of all pairs."""

    @staticmethod
    def forward(context: Any, x_BF: torch.Tensor, y_AF: torch.Tensor, root: bool) -> torch.Tensor:
        distance_BA = torch.cdist(x_BF, y_AF, compute_mode="donot_use_mm_for_euclid_dist")
        result_BA = distance_BA if root else distance_BA.square_()
        context.root = root
        context.save_for_backward(x_BF, y_AF, result_BA)
        return result_BA

    @staticmethod
    def backward(context: Any, gradient_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        refuse_second_derivative()
        x_BF, y_AF, result_BA = context.saved_tensors
        x_gradient, y_gradient = torch.empty_like(x_BF), torch.zeros_like(y_AF)
        with full_precision(gradient_BA):  # autocast may be on here
            pull_BA = _pull(gradient_BA, result_BA, root=context.root)
            size = max(1, _PIECE_ELSEWHERE // y_AF.numel())
            for x_bF, pull_bA, x_gradient_bF in zip(*(t.split(size) for t in (x_BF, pull_BA, x_gradient)), strict=True):
                force_bAF = (x_bF[:, None] - y_AF).mul_(pull_bA[..., None])
                torch.sum(force_bAF, 1, out=x_gradient_bF)
                y_gradient -= force_bAF.sum(0)
        return x_gradient, y_gradient, None


def _pull(gradient_BA: torch.Tensor, result_BA: torch.Tensor, *, root: bool) -> torch.Tensor:
    """What the differences of pairs are multiplied by, in the gradient of their distances."""
    return torch.where(result_BA > 0, gradient_BA / result_BA, 0.0) if root else 2 * gradient_BA


def _close_pairs(square_BA: torch.Tensor, sum_BA: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows and columns of pairs whose square distance has lost digits; usually none, as where there are no values."""
    if not has_values(square_BA):
        none_Q = square_BA.new_empty(0, dtype=torch.int64)
        return none_Q, none_Q
    return (square_BA < _CLOSE * sum_BA).nonzero(as_tuple=True)


def _gradients_of_samples(
    gradient_BA: torch.Tensor,
    x_BF: torch.Tensor,
    y_AF: torch.Tensor,
    row_Q: torch.Tensor,
    column_Q: torch.Tensor,
    result_BA: torch.Tensor,
    *,
    root: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    pull_BA = _pull(gradient_BA, result_BA, root=root)
    close_Q = pull_BA[row_Q, column_Q]
    pull_BA[row_Q, column_Q] = 0
    from_center_BF, from_center_AF = _center(x_BF, y_AF)
    x_gradient = (pull_BA.sum(1)[:, None] * from_center_BF).addmm_(pull_BA, from_center_AF, alpha=-1)
    y_gradient = (pull_BA.sum(0)[:, None] * from_center_AF).addmm_(pull_BA.T, from_center_BF, alpha=-1)
    for row, column, pull in _pieces(row_Q, column_Q, x_BF.shape[1], close_Q):
        force = (x_BF[row] - y_AF[column]).mul_(pull[:, None])
        x_gradient.index_add_(0, row, force)
        y_gradient.index_add_(0, column, force, alpha=-1)
    return x_gradient, y_gradient


def _center(x_BF: torch.Tensor, y_AF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract the mean of all: distances stay, and the sums that they are differences of become smaller."""
    center_F = (x_BF.sum(0) + y_AF.sum(0)) / (len(x_BF) + len(y_AF))
    return x_BF - center_F, y_AF - center_F


def _pieces(
    row_Q: torch.Tensor, column_Q: torch.Tensor, features: int, *more: torch.Tensor
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the pairs in groups small enough that their differences are few."""
    size = max(1, _PIECE // features)
    return zip(*(tensor.split(size) for tensor in (row_Q, column_Q, *more)), strict=True)
