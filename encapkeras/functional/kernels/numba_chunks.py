"""Parts of the kernels of `numba_steps`: what is done to a chunk of rows that stays in the fastest cache.

Numba keeps compiled kernels until their own file changes, so `numba_steps.PARTS` changes with this one.

Shape suffixes: B batch, D and E capsule dimensions, C channels, P positions, Q = B * P, R positions of a chunk,
S steps, G channels of a group. M is a map: `(B, C, P)` or, where its `last` is set, `(B, P, C)`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encapkeras.functional.kernels.numba_compiler import kernel_part

PADDING = 80
"""Numbers behind a buffer's row: rows of a power of two would take turns in one place of a cache."""

# A chunk of rows is given as an array, its first row, its start, and how many numbers each row has. Rows are cut out
# before a loop: with an index such as `start + r`, which numba looks at for being negative, a loop is ten times slower.


@kernel_part
def load(map_M: Any, last: bool, first: int, group_GQ: Any) -> None:
    """Read channels from `first` on."""
    batch, channels = len(map_M), len(group_GQ)
    positions = (group_GQ.shape[1] - PADDING) // batch
    for b in range(batch):
        start, stop = b * positions, (b + 1) * positions
        if last:
            for p in range(positions):
                words_C, to = map_M[b, p, first : first + channels], np.uintp(start + p)
                for c in range(channels):
                    group_GQ[c, to] = words_C[c]
        else:
            for c in range(channels):
                group_GQ[c, start:stop] = map_M[b, first + c]


@kernel_part
def store(group_GQ: Any, map_M: Any, last: bool, first: int) -> None:
    """Write channels from `first` on."""
    batch, channels = len(map_M), len(group_GQ)
    positions = (group_GQ.shape[1] - PADDING) // batch
    for b in range(batch):
        start, stop = b * positions, (b + 1) * positions
        if last:
            for p in range(positions):
                words_C, at = map_M[b, p, first : first + channels], np.uintp(start + p)
                for c in range(channels):
                    words_C[c] = group_GQ[c, at]
        else:
            for c in range(channels):
                map_M[b, first + c] = group_GQ[c, start:stop]


@kernel_part
def copy(
    x_CQ: Any, row: int, start: int, out_CQ: Any, out_row: int, out_start: int, dim: int, count: int, add: bool
) -> None:
    """Write x, or add it."""
    for d in range(dim):
        x_R, out_R = x_CQ[row + d, start : start + count], out_CQ[out_row + d, out_start : out_start + count]
        if add:
            for r in range(len(out_R)):
                out_R[r] += x_R[r]
        else:
            for r in range(len(out_R)):
                out_R[r] = x_R[r]


@kernel_part
def mix(matrix_ED: Any, x_CQ: Any, row: int, start: int, out_CQ: Any, out_row: int, out_start: int, count: int) -> None:
    """Write `matrix @ x`."""
    dim = len(matrix_ED)
    for e in range(dim):
        out_R = out_CQ[out_row + e, out_start : out_start + count]
        first = dim % 2
        if first:
            factor, x_R = matrix_ED[e, 0], x_CQ[row, start : start + count]
            for r in range(len(out_R)):
                out_R[r] = factor * x_R[r]
        for d in range(first, dim, 2):
            factor, second = matrix_ED[e, d], matrix_ED[e, d + 1]
            x_R, next_R = x_CQ[row + d, start : start + count], x_CQ[row + d + 1, start : start + count]
            if d == 0:
                for r in range(len(out_R)):
                    out_R[r] = factor * x_R[r] + second * next_R[r]
            else:
                for r in range(len(out_R)):
                    out_R[r] += factor * x_R[r] + second * next_R[r]


@kernel_part
def add_products(gradient_DR: Any, x_CQ: Any, row: int, start: int, count: int, total_ED: Any) -> None:
    """Add `gradient @ x.T`."""
    zero = x_CQ.dtype.type(0)
    for e in range(len(total_ED)):
        gradient_R = gradient_DR[e, :count]
        for d in range(len(total_ED)):
            x_R = x_CQ[row + d, start : start + count]
            total = zero
            for r in range(len(x_R)):
                total += gradient_R[r] * x_R[r]
            total_ED[e, d] += total


@kernel_part
def add_moments(x_CQ: Any, row: int, start: int, count: int, mean_D: Any, square_D: Any) -> None:
    """Add a chunk to each channel's mean and sum of squares: Chan, Golub and LeVeque 1983, no large differences."""
    zero, seen = x_CQ.dtype.type(0), start + count
    inverse = x_CQ.dtype.type(1) / x_CQ.dtype.type(count)
    for d in range(len(mean_D)):
        x_R = x_CQ[row + d, start:seen]
        total = zero
        for r in range(len(x_R)):
            total += x_R[r]
        middle = total * inverse
        total = zero
        for r in range(len(x_R)):
            away = x_R[r] - middle
            total += away * away
        moved = middle - mean_D[d]
        mean_D[d] += moved * count / seen
        square_D[d] += total + moved * moved * start * count / seen


@kernel_part
def squash_chunk(
    x_CQ: Any, row: int, start: int, count: int, statistics: Any, s: int, first: int, low: Any, out_DR: Any, work_R: Any
) -> None:
    """Write a chunk of one type, whose channels begin at `first`, after a step's normalization, ReLU and squash."""
    one, factor_R = x_CQ.dtype.type(1), work_R[:count]
    factor_R[:] = 0
    for d in range(len(out_DR)):
        slope, shift = statistics.slope[s, first + d], statistics.shift[s, first + d]
        x_R, out_R = x_CQ[row + d, start : start + count], out_DR[d, :count]
        for r in range(len(factor_R)):
            value = slope * x_R[r] + shift
            value = low if value < low else value
            out_R[r] = value
            factor_R[r] += value * value
    for r in range(len(factor_R)):
        factor_R[r] = np.sqrt(factor_R[r]) / (one + factor_R[r])
    for d in range(len(out_DR)):
        out_R = out_DR[d, :count]
        for r in range(len(factor_R)):
            out_R[r] *= factor_R[r]


@kernel_part
def squash_backward(
    y_DQ: Any, gradient_CQ: Any, row: int, start: int, count: int, statistics: Any, s: int, first: int, low: Any,
    work_KR: Any, sum_D: Any, moment_D: Any,
) -> None:  # fmt: skip
    """Turn a gradient into g, that of what is normalized, in place; add the sums of g and of `g (y - mean)`."""
    one, zero, tiny = y_DQ.dtype.type(1), y_DQ.dtype.type(0), np.finfo(y_DQ.dtype).tiny
    factor_R, along_R = work_KR[0, :count], work_KR[1, :count]
    factor_R[:] = 0
    along_R[:] = 0
    for d in range(len(y_DQ)):
        slope, shift = statistics.slope[s, first + d], statistics.shift[s, first + d]
        y_R, gradient_R = y_DQ[d, start : start + count], gradient_CQ[row + d, start : start + count]
        for r in range(len(factor_R)):
            value = slope * y_R[r] + shift
            value = low if value < low else value
            factor_R[r] += value * value
            along_R[r] += value * gradient_R[r]
    for r in range(len(factor_R)):
        square = factor_R[r]
        length = np.sqrt(square if square > tiny else tiny)
        inverse = one / (length * (one + square))  # the one division: the others are products with it
        factor_R[r] = square * inverse  # 0 for the zero vector
        along_R[r] *= (one - square) * inverse * inverse * length
    for d in range(len(y_DQ)):
        slope, shift = statistics.slope[s, first + d], statistics.shift[s, first + d]
        mean = statistics.mean[s, first + d]
        y_R, gradient_R = y_DQ[d, start : start + count], gradient_CQ[row + d, start : start + count]
        total, moment = zero, zero
        for r in range(len(factor_R)):
            y = y_R[r]
            value = slope * y + shift
            through = gradient_R[r] * factor_R[r] + value * along_R[r]
            through = zero if value <= low else through
            gradient_R[r] = through
            total += through
            moment += through * (y - mean)
        sum_D[d] += total
        moment_D[d] += moment


@kernel_part
def normalize_backward(
    y_DQ: Any, gradient_CQ: Any, row: int, start: int, count: int, statistics: Any, s: int, first: int,
    constant_D: Any, of_input_D: Any, out_DR: Any,
) -> None:  # fmt: skip
    """Write batch norm's own backward: `slope * (g - mean(g) - xhat * mean(g xhat))`."""
    for d in range(len(y_DQ)):
        slope, mean = statistics.slope[s, first + d], statistics.mean[s, first + d]
        constant, of_input, out_R = constant_D[d], of_input_D[d], out_DR[d, :count]
        y_R, gradient_R = y_DQ[d, start : start + count], gradient_CQ[row + d, start : start + count]
        for r in range(len(out_R)):
            out_R[r] = slope * gradient_R[r] - constant - of_input * (y_R[r] - mean)


@kernel_part
def share(values_D: Any) -> None:
    """Replace values by their mean."""
    mean = values_D.mean()
    values_D[:] = mean


@kernel_part
def write_normalizers(
    mean_D: Any, variance_D: Any, scale_C: Any, offset_C: Any, statistics: Any, s: int, first: int, settings: Any
) -> None:
    """Write what normalizes a type, by its moments."""
    if settings.by_type:
        middle = mean_D.mean()
        variance_D += (mean_D - middle) ** 2
        mean_D[:] = middle
        share(variance_D)
    for d in range(len(mean_D)):
        at = first + d
        slope = scale_C[at] / math.sqrt(variance_D[d] + settings.epsilon)
        statistics.slope[s, at], statistics.shift[s, at] = slope, offset_C[at] - mean_D[d] * slope
        statistics.mean[s, at], statistics.variance[s, at] = mean_D[d], variance_D[d]
