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

CHANNELS, POSITIONS = 64, 64
"""Of a block, where a map is channels_last; elsewhere a block is one capsule type."""
ROW = 1024
"""Positions of a block, where both maps are contiguous."""


def moments(map_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and biased variance."""
    mean, variance = map_BCHW.new_empty(2, map_BCHW.shape[1])
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
        for r in range(count):
            for c in range(channels):
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
def _split(channels: int, positions: int, dim: int, last: bool, other_last: bool) -> tuple[int, int]:
    """Channels (whole types) and positions of a block."""
    if last or other_last:
        return min(channels // dim, max(1, CHANNELS // dim)), min(POSITIONS, positions)
    return 1, min(ROW, positions)


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
    """Write `squash(max(slope * x + shift, floor))`; floor is 0, or -inf for no ReLU."""
    batch = map_M.shape[0]
    positions, channels = (map_M.shape[1], map_M.shape[2]) if last else (map_M.shape[2], map_M.shape[1])
    dim = channels // types
    width, size = _split(channels, positions, dim, last, out_last)
    groups = (types + width - 1) // width
    blocks = (positions + size - 1) // size
    one = map_M.dtype.type(1)
    low = map_M.dtype.type(floor)
    for k in numba.prange(batch * groups * blocks):
        b, group, start = k // (groups * blocks), k // blocks % groups, k % blocks * size
        count = min(size, positions - start)
        first = group * width * dim
        inside = min(width, types - group * width)
        tile_CR = np.empty((inside * dim, count), map_M.dtype)
        _load(map_M, last, b, first, start, tile_CR)
        factor = np.empty(count, map_M.dtype)
        for n in range(inside):
            factor[:] = 0
            for c in range(n * dim, (n + 1) * dim):
                slope, shift = slope_C[first + c], shift_C[first + c]
                row = tile_CR[c]
                for r in range(count):
                    value = slope * row[r] + shift
                    value = low if value < low else value
                    row[r] = value
                    factor[r] += value * value
            for r in range(count):
                square = factor[r]
                factor[r] = np.sqrt(square) / (one + square)
            for c in range(n * dim, (n + 1) * dim):
                row = tile_CR[c]
                for r in range(count):
                    row[r] *= factor[r]
        _store(tile_CR, out_M, out_last, b, first, start)


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
    """Write the gradient g before squash and ReLU, and of each channel the sums of g and of `g (x - mean)`.

    With `f = |s| / (1 + |s|^2)`: `f g + (f' / |s|) (s . g) s`, and 0 where ReLU cut.
    """
    batch = map_M.shape[0]
    positions, channels = (map_M.shape[1], map_M.shape[2]) if last else (map_M.shape[2], map_M.shape[1])
    dim = channels // types
    width, size = _split(channels, positions, dim, last, gradient_last)
    groups = (types + width - 1) // width
    blocks = (positions + size - 1) // size
    one = map_M.dtype.type(1)
    zero = map_M.dtype.type(0)
    low = map_M.dtype.type(floor)
    tiny = np.finfo(map_M.dtype).tiny
    sum_KC = np.empty((batch * blocks, channels), map_M.dtype)
    moment_KC = np.empty((batch * blocks, channels), map_M.dtype)
    for k in numba.prange(batch * groups * blocks):
        b, group, start = k // (groups * blocks), k // blocks % groups, k % blocks * size
        count = min(size, positions - start)
        first = group * width * dim
        inside = min(width, types - group * width)
        tile_CR = np.empty((inside * dim, count), map_M.dtype)
        gradient_CR = np.empty((inside * dim, count), map_M.dtype)
        _load(map_M, last, b, first, start, tile_CR)
        _load(gradient_M, gradient_last, b, first, start, gradient_CR)
        factor = np.empty(count, map_M.dtype)
        along = np.empty(count, map_M.dtype)
        for n in range(inside):
            factor[:] = 0
            along[:] = 0
            for c in range(n * dim, (n + 1) * dim):
                slope, shift = slope_C[first + c], shift_C[first + c]
                row, gradient = tile_CR[c], gradient_CR[c]
                for r in range(count):
                    value = slope * row[r] + shift
                    value = low if value < low else value
                    factor[r] += value * value
                    along[r] += value * gradient[r]
            for r in range(count):
                square = factor[r]
                length = np.sqrt(square if square > tiny else tiny)
                inverse = one / (one + square)
                factor[r] = square * inverse / length  # 0 for the zero vector
                along[r] *= (one - square) * inverse * inverse / length
            for c in range(n * dim, (n + 1) * dim):
                slope, shift, mean = slope_C[first + c], shift_C[first + c], mean_C[first + c]
                total, moment = zero, zero
                row, gradient = tile_CR[c], gradient_CR[c]
                for r in range(count):
                    x = row[r]
                    value = slope * x + shift
                    through = gradient[r] * factor[r] + value * along[r]
                    through = zero if value <= low else through
                    gradient[r] = through
                    total += through
                    moment += through * (x - mean)
                sum_KC[b * blocks + k % blocks, first + c] = total
                moment_KC[b * blocks + k % blocks, first + c] = moment
        _store(gradient_CR, out_M, last, b, first, start)
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
            row, out = map_M[b, p], out_M[b, p]
            for c in range(len(row)):
                out[c] = slope_C[c] * out[c] - constant_C[c] - of_input_C[c] * (row[c] - mean_C[c])
    else:
        for k in numba.prange(batch * map_M.shape[1]):
            b, c = k // map_M.shape[1], k % map_M.shape[1]
            slope, mean, constant, of_input = slope_C[c], mean_C[c], constant_C[c], of_input_C[c]
            row, out = map_M[b, c], out_M[b, c]
            for p in range(len(row)):
                out[p] = slope * out[p] - constant - of_input * (row[p] - mean)
