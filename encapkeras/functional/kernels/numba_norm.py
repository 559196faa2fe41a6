"""Batch norm, ReLU and squash by numba: one pass for the statistics, one to apply them, two backward.

A map is read and written in blocks of neighboring positions of a sample. In the cache a block has channels as rows,
and everything runs along the positions; maps that are channels_last are turned on their way in and out.

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, P positions, R positions of a block,
K = B * (blocks of a sample). M is a map: `(B, C, P)` or, where its `last` is set, `(B, P, C)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch

from encapkeras.functional.kernels.numba_compiler import kernel_part, parallel_kernel, threads_of_torch

CHANNELS, POSITIONS = 64, 128
"""Of a block, where a map is channels_last; elsewhere a block is one capsule type."""


def moments(map_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and biased variance."""
    mean, variance = (map_BCHW.new_empty(map_BCHW.shape[1]) for _ in range(2))  # a graph may keep one alone
    with threads_of_torch():
        _moments(*_view(map_BCHW), mean.numpy(), variance.numpy())
    return mean, variance


def apply(
    map_BCHW: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, types: int, relu: bool, out_BCHW: torch.Tensor
) -> None:
    """Write `squash(relu(slope * x + shift))`, with ReLU or without."""
    with threads_of_torch():
        _apply(*_view(map_BCHW), _numbers(slope), _numbers(shift), _floor(relu), types, *_view(out_BCHW))


def apply_backward(
    map_BCHW: torch.Tensor,
    gradient_BCHW: torch.Tensor,
    slope: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    types: int,
    relu: bool,
    out_BCHW: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the gradient g before squash and ReLU; return each channel's sums of g and of `g (x - mean)`."""
    total, moment = map_BCHW.new_empty(2, map_BCHW.shape[1])
    arguments: list[Any] = [*_view(map_BCHW), *_view(gradient_BCHW), *map(_numbers, (slope, shift, mean))]
    arguments += [_floor(relu), types, _view(out_BCHW)[0], total.numpy(), moment.numpy()]
    with threads_of_torch():
        _apply_backward(*arguments)
    return total, moment


def through_statistics(
    map_BCHW: torch.Tensor,
    slope: torch.Tensor,
    mean: torch.Tensor,
    constant: torch.Tensor,
    of_input: torch.Tensor,
    out_BCHW: torch.Tensor,
) -> None:
    """Turn gradients g of what is normalized into the map's: `slope g - constant - of_input (x - mean)`, in place."""
    arguments: list[Any] = [*_view(map_BCHW), *map(_numbers, (slope, mean, constant, of_input)), _view(out_BCHW)[0]]
    with threads_of_torch():
        _through_statistics(*arguments)


def trial(dtype: torch.dtype) -> Iterator[None]:
    """Run each kernel once on a small map."""
    map_BCHW, (one, zero) = torch.ones(1, 2, 1, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype)
    moments(map_BCHW)
    yield
    out_BCHW = torch.empty_like(map_BCHW)
    apply(map_BCHW, one, zero, 1, True, out_BCHW)
    apply_backward(map_BCHW, map_BCHW, one, zero, zero, 1, True, out_BCHW)
    through_statistics(map_BCHW, one, zero, zero, zero, out_BCHW)


def _view(map_BCHW: torch.Tensor) -> tuple[Any, bool]:
    """The numbers of a map as they lie in memory, and whether channels are last there."""
    if map_BCHW.is_contiguous():
        return _numbers(map_BCHW.flatten(2)), False
    return _numbers(map_BCHW.permute(0, 2, 3, 1).flatten(1, 2)), True


def _numbers(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _floor(relu: bool) -> float:
    return 0.0 if relu else -math.inf


@kernel_part
def _load(map_M: Any, last: bool, b: int, first: int, start: int, tile_CR: Any) -> None:
    channels, count = tile_CR.shape
    if last:
        part_RC = map_M[b, start : start + count, first : first + channels]
        for c in range(channels):
            for r in range(count):
                tile_CR[c, r] = part_RC[r, c]
    else:
        part_CR = map_M[b, first : first + channels, start : start + count]
        for c in range(channels):
            for r in range(count):
                tile_CR[c, r] = part_CR[c, r]


@kernel_part
def _store(tile_CR: Any, map_M: Any, last: bool, b: int, first: int, start: int) -> None:
    channels, count = tile_CR.shape
    if last:
        part_RC = map_M[b, start : start + count, first : first + channels]
        for r in range(count):
            for c in range(channels):
                part_RC[r, c] = tile_CR[c, r]
    else:
        part_CR = map_M[b, first : first + channels, start : start + count]
        for c in range(channels):
            for r in range(count):
                part_CR[c, r] = tile_CR[c, r]


@kernel_part
def _split(channels: int, positions: int, dim: int) -> tuple[int, int]:
    """Types and positions of a block."""
    return min(channels // dim, max(1, CHANNELS // dim)), min(POSITIONS, positions)


# Below, `out` is never the memory that is read, and rows are not cut out: either makes a loop several times slower.


@kernel_part
def _squash_type(
    x_CR: Any, out_CR: Any, row: int, slope_C: Any, shift_C: Any, first: int, dim: int, low: Any, factor_R: Any
) -> None:
    """One type, whose channels begin at `first`, in a block at a row."""
    one = x_CR.dtype.type(1)
    factor_R[:] = 0
    for d in range(dim):
        slope, shift, c = slope_C[first + d], shift_C[first + d], row + d
        for r in range(len(factor_R)):
            value = slope * x_CR[c, r] + shift
            value = low if value < low else value
            out_CR[c, r] = value
            factor_R[r] += value * value
    for r in range(len(factor_R)):
        factor_R[r] = np.sqrt(factor_R[r]) / (one + factor_R[r])
    for c in range(row, row + dim):
        for r in range(len(factor_R)):
            out_CR[c, r] *= factor_R[r]


@kernel_part
def _squash_type_backward(
    x_CR: Any,
    gradient_CR: Any,
    out_CR: Any,
    row: int,
    slope_C: Any,
    shift_C: Any,
    mean_C: Any,
    first: int,
    dim: int,
    low: Any,
    factor_R: Any,
    along_R: Any,
    sum_KC: Any,
    moment_KC: Any,
    k: int,
) -> None:
    one, zero = x_CR.dtype.type(1), x_CR.dtype.type(0)
    tiny = np.finfo(x_CR.dtype).tiny
    factor_R[:] = 0
    along_R[:] = 0
    for d in range(dim):
        slope, shift, c = slope_C[first + d], shift_C[first + d], row + d
        for r in range(len(factor_R)):
            value = slope * x_CR[c, r] + shift
            value = low if value < low else value
            factor_R[r] += value * value
            along_R[r] += value * gradient_CR[c, r]
    for r in range(len(factor_R)):
        square = factor_R[r]
        length = np.sqrt(square if square > tiny else tiny)
        inverse = one / (length * (one + square))  # the one division: the others are products with it
        factor_R[r] = square * inverse  # 0 for the zero vector
        along_R[r] *= (one - square) * inverse * inverse * length
    for d in range(dim):
        slope, shift, mean, c = slope_C[first + d], shift_C[first + d], mean_C[first + d], row + d
        total, moment = zero, zero
        for r in range(len(factor_R)):
            x = x_CR[c, r]
            value = slope * x + shift
            through = gradient_CR[c, r] * factor_R[r] + value * along_R[r]
            through = zero if value <= low else through
            out_CR[c, r] = through
            total += through
            moment += through * (x - mean)
        sum_KC[k, first + d] = total
        moment_KC[k, first + d] = moment


@parallel_kernel
def _moments(map_M: Any, last: bool, mean_C: Any, variance_C: Any) -> None:
    """Write each channel's mean and biased variance."""
    batch = map_M.shape[0]
    positions, channels = (map_M.shape[1], map_M.shape[2]) if last else (map_M.shape[2], map_M.shape[1])
    size = min(POSITIONS, positions) if last else positions
    blocks = (positions + size - 1) // size
    part_KC = np.empty((batch * blocks, channels), map_M.dtype)
    square_KC = np.zeros((batch * blocks, channels), map_M.dtype)
    for k in numba.prange(batch * blocks):
        b, start = k // blocks, k % blocks * size
        stop = min(start + size, positions)
        mean = part_KC[k]
        square = square_KC[k]
        inverse = map_M.dtype.type(1) / map_M.dtype.type(stop - start)
        if last:
            mean[:] = 0
            for p in range(start, stop):
                row = map_M[b, p]
                for c in range(channels):
                    mean[c] += row[c]
            for c in range(channels):
                mean[c] *= inverse
            for p in range(start, stop):
                row = map_M[b, p]
                for c in range(channels):
                    away = row[c] - mean[c]
                    square[c] += away * away
        else:
            for c in range(channels):
                row = map_M[b, c]
                total = inverse * 0
                for p in range(len(row)):
                    total += row[p]
                middle = total * inverse
                total = inverse * 0
                for p in range(len(row)):
                    away = row[p] - middle
                    total += away * away
                mean[c] = middle
                square[c] = total
    for c in numba.prange(channels):
        # Chan, Golub and LeVeque 1983: no difference of large numbers.
        seen, mean, square = 0.0, 0.0, 0.0
        for k in range(batch * blocks):
            start = k % blocks * size
            count = min(size, positions - start)
            away = part_KC[k, c] - mean
            total = seen + count
            mean += away * count / total
            square += square_KC[k, c] + away * away * seen * count / total
            seen = total
        mean_C[c] = mean
        variance_C[c] = square / seen


@parallel_kernel
def _apply(
    map_M: Any, last: bool, slope_C: Any, shift_C: Any, floor: float, types: int, out_M: Any, out_last: bool
) -> None:
    batch = map_M.shape[0]
    positions, channels = (map_M.shape[1], map_M.shape[2]) if last else (map_M.shape[2], map_M.shape[1])
    dim = channels // types
    low = map_M.dtype.type(floor)
    if not (last or out_last):
        for k in numba.prange(batch * types):
            b, first = k // types, k % types * dim
            factor_R = np.empty(positions, map_M.dtype)
            _squash_type(map_M[b], out_M[b], first, slope_C, shift_C, first, dim, low, factor_R)
        return
    width, size = _split(channels, positions, dim)
    groups = (types + width - 1) // width
    blocks = (positions + size - 1) // size
    for k in numba.prange(batch * groups * blocks):
        b, group, start = k // (groups * blocks), k // blocks % groups, k % blocks * size
        count = min(size, positions - start)
        inside = min(width, types - group * width)
        tile_CR = np.empty((inside * dim, count), map_M.dtype)
        result_CR = np.empty((inside * dim, count), map_M.dtype)
        factor_R = np.empty(count, map_M.dtype)
        _load(map_M, last, b, group * width * dim, start, tile_CR)
        for n in range(inside):
            first = (group * width + n) * dim
            _squash_type(tile_CR, result_CR, n * dim, slope_C, shift_C, first, dim, low, factor_R)
        _store(result_CR, out_M, out_last, b, group * width * dim, start)


@parallel_kernel
def _apply_backward(
    map_M: Any,
    last: bool,
    gradient_M: Any,
    gradient_last: bool,
    slope_C: Any,
    shift_C: Any,
    mean_C: Any,
    floor: float,
    types: int,
    out_M: Any,
    sum_C: Any,
    moment_C: Any,
) -> None:
    batch = map_M.shape[0]
    positions, channels = (map_M.shape[1], map_M.shape[2]) if last else (map_M.shape[2], map_M.shape[1])
    dim = channels // types
    low = map_M.dtype.type(floor)
    turned = last or gradient_last
    width, size = _split(channels, positions, dim) if turned else (1, positions)
    groups = (types + width - 1) // width
    blocks = (positions + size - 1) // size
    sum_KC = np.empty((batch * blocks, channels), map_M.dtype)
    moment_KC = np.empty((batch * blocks, channels), map_M.dtype)
    for k in numba.prange(batch * groups * blocks):
        b, group, start = k // (groups * blocks), k // blocks % groups, k % blocks * size
        count = min(size, positions - start)
        inside = min(width, types - group * width)
        factor_R, along_R = np.empty(count, map_M.dtype), np.empty(count, map_M.dtype)
        if not turned:
            _squash_type_backward(
                map_M[b], gradient_M[b], out_M[b], group * dim, slope_C, shift_C, mean_C, group * dim, dim, low,
                factor_R, along_R, sum_KC, moment_KC, b,
            )  # fmt: skip
            continue
        tile_CR = np.empty((inside * dim, count), map_M.dtype)
        gradient_CR = np.empty((inside * dim, count), map_M.dtype)
        result_CR = np.empty((inside * dim, count), map_M.dtype)
        _load(map_M, last, b, group * width * dim, start, tile_CR)
        _load(gradient_M, gradient_last, b, group * width * dim, start, gradient_CR)
        for n in range(inside):
            _squash_type_backward(
                tile_CR, gradient_CR, result_CR, n * dim, slope_C, shift_C, mean_C, (group * width + n) * dim, dim, low,
                factor_R, along_R, sum_KC, moment_KC, b * blocks + k % blocks,
            )  # fmt: skip
        _store(result_CR, out_M, last, b, group * width * dim, start)
    for c in numba.prange(channels):
        total, moment = 0.0, 0.0
        for k in range(batch * blocks):
            total += sum_KC[k, c]
            moment += moment_KC[k, c]
        sum_C[c] = total
        moment_C[c] = moment


@parallel_kernel
def _through_statistics(
    map_M: Any, last: bool, slope_C: Any, mean_C: Any, constant_C: Any, of_input_C: Any, out_M: Any
) -> None:
    """Turn gradients g of what is normalized into the map's: `slope g - constant - of_input (x - mean)`, in place."""
    batch = map_M.shape[0]
    if last:
        for k in numba.prange(batch * map_M.shape[1]):
            b, p = k // map_M.shape[1], k % map_M.shape[1]
            for c in range(map_M.shape[2]):
                away = map_M[b, p, c] - mean_C[c]
                out_M[b, p, c] = slope_C[c] * out_M[b, p, c] - constant_C[c] - of_input_C[c] * away
    else:
        for k in numba.prange(batch * map_M.shape[1]):
            b, c = k // map_M.shape[1], k % map_M.shape[1]
            slope, mean, constant, of_input = slope_C[c], mean_C[c], constant_C[c], of_input_C[c]
            for p in range(map_M.shape[2]):
                out_M[b, c, p] = slope * out_M[b, c, p] - constant - of_input * (map_M[b, c, p] - mean)
