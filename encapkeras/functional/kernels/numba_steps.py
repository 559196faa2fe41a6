"""Steps that each capsule type takes by itself (`functional.type_steps`), by numba.

A thread takes a type through all its steps while its numbers are in the cache. Maps that are channels_last are turned
for a group of types at once, in memory's words of 64 bytes.

Shape suffixes: B batch, N capsule types, D capsule dimension, C = N * D channels, P positions, Q = B * P, R positions
of a chunk, S steps, K taps, G channels of a group. M is a map: `(B, C, P)` or, where its `last` is set, `(B, P, C)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from encapkeras.functional.block_weights import StepOptions
from encapkeras.functional.kernels.numba_chunks import (
    PADDING,
    add_moments,
    add_products,
    copy,
    load,
    mix,
    normalize_backward,
    share,
    squash_backward,
    squash_chunk,
    store,
    write_normalizers,
)
from encapkeras.functional.kernels.numba_compiler import kernel_part, parallel_kernel, threads_of_torch

PARTS = "5864cdcec76d"
"""Of `numba_chunks.py` and `numba_compiler.py`, held by a test: numba looks for changes in this file alone."""
CHUNK = 4096
"""Numbers of a capsule type that are worked on together: they stay in the fastest cache."""
WORD = 16
"""Channels of a group where a map is channels_last; fewer where they are more numbers than GROUP."""
GROUP = 1 << 19


class Statistics(NamedTuple):
    """Of each step and channel, `(S, C)`: what normalizes, and the batch's moments."""

    slope: Any
    shift: Any
    mean: Any
    variance: Any


class Settings(NamedTuple):
    """`StepOptions` for kernels: `low` is what a ReLU raises values to, `tap_S` a step's place among the taps or -1."""

    types: int
    low: Any
    by_type: bool
    epsilon: float
    given: bool
    skip: bool
    tap_S: Any
    threads: int


def forward(
    map_BCHW: torch.Tensor,
    matrix_SNED: torch.Tensor,
    statistics: Statistics,
    affine: tuple[torch.Tensor, torch.Tensor] | None,
    options: StepOptions,
    out_BCHW: torch.Tensor,
) -> torch.Tensor:
    """Write the last step's output; return those of `options.taps`, `(K, B, C, P)`.

    Statistics are written, by scale and offset `(S, C)`; without these they are given.
    """
    taps_KBCP = map_BCHW.new_empty(len(options.taps), *map_BCHW.flatten(2).shape)
    scale, offset = affine or statistics[:2]
    arguments: list[Any] = [*_view(map_BCHW), *_view(out_BCHW), _numbers(taps_KBCP), _numbers(matrix_SNED)]
    arguments += [_numbers(scale), _numbers(offset), Statistics(*map(_numbers, statistics))]
    with threads_of_torch():
        arguments.append(_settings(options, range(len(options.taps)), scale))
        _forward(*arguments)
    return taps_KBCP


def backward(
    map_BCHW: torch.Tensor,
    matrix_SNED: torch.Tensor,
    statistics: Statistics,
    gradient_BCHW: torch.Tensor,
    tap_gradients: Sequence[torch.Tensor | None],
    options: StepOptions,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of map and matrices, and each channel's sums of g and of `g (x - mean)`, `(S, C)`.

    g is the gradient of what is normalized. Statistics that were given are constants.
    """
    out_BCHW, matrix_gradient = torch.empty_like(map_BCHW), torch.empty_like(matrix_SNED)
    sums = [torch.empty_like(statistics.mean) for _ in range(2)]
    present = [index for index, gradient in enumerate(tap_gradients) if gradient is not None]
    tapped = [tap_gradients[index].flatten(2) for index in present]  # type: ignore[union-attr]
    taps_KBCP = torch.stack(tapped) if tapped else map_BCHW.new_empty(0, 1, 1, 1)
    arguments: list[Any] = [*_view(map_BCHW), *_view(gradient_BCHW), _numbers(taps_KBCP), _numbers(matrix_SNED)]
    arguments += [_numbers(matrix_SNED.transpose(2, 3)), Statistics(*map(_numbers, statistics)), _view(out_BCHW)[0]]
    arguments += [_numbers(matrix_gradient), *map(_numbers, sums)]
    with threads_of_torch():
        arguments.append(_settings(options, present, statistics.mean))
        _backward(*arguments)
    return out_BCHW, matrix_gradient, sums[0], sums[1]


def trial(dtype: torch.dtype) -> Iterator[None]:
    """Run each kernel once on a small map."""
    map_BCHW, matrix_SNED = torch.ones(1, 1, 1, 2, dtype=dtype), torch.ones(1, 1, 1, 1, dtype=dtype)
    statistics = Statistics(*(torch.ones(1, 1, dtype=dtype) for _ in range(4)))
    options = StepOptions(types=1, given=True)
    forward(map_BCHW, matrix_SNED, statistics, None, options, torch.empty_like(map_BCHW))
    yield
    backward(map_BCHW, matrix_SNED, statistics, map_BCHW, [], options)


def _settings(options: StepOptions, tapped: Sequence[int], vectors_SC: torch.Tensor) -> Settings:
    tap_S = np.full(len(vectors_SC), -1)
    for place, index in enumerate(tapped):
        tap_S[options.taps[index]] = place
    low = _numbers(vectors_SC).dtype.type(0.0 if options.relu else -math.inf)
    epsilon, threads = options.epsilon, numba.get_num_threads()
    return Settings(options.types, low, options.by_type, epsilon, options.given, options.skip, tap_S, threads)


def _view(map_BCHW: torch.Tensor) -> tuple[Any, bool]:
    """The numbers of a map as they lie in memory, and whether channels are last there."""
    if map_BCHW.is_contiguous():
        return _numbers(map_BCHW.flatten(2)), False
    return _numbers(map_BCHW.permute(0, 2, 3, 1).flatten(1, 2)), True


def _numbers(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


@kernel_part
def _width(dim: int, total: int, turned: bool, settings: Any) -> int:
    """Types of a group: a word of channels where memory is turned, if there are types for all threads."""
    most = min(WORD // dim, settings.types // settings.threads, GROUP // (dim * total))
    return max(1, most) if turned else 1


@parallel_kernel
def _forward(
    map_M: Any, last: bool, out_M: Any, out_last: bool, taps_KBCP: Any, matrix_SNED: Any, scale_SC: Any,
    offset_SC: Any, statistics: Any, settings: Any,
) -> None:  # fmt: skip
    dim, dtype, types, threads = matrix_SNED.shape[2], map_M.dtype, settings.types, settings.threads
    total = len(map_M) * (map_M.shape[1] if last else map_M.shape[2])
    width, size = _width(dim, total, last or out_last, settings), min(max(CHUNK // dim, 1), total)
    for thread in numba.prange(threads):
        group_GQ = np.empty((width * dim, total + PADDING), dtype)
        skip_DQ = np.empty((dim if settings.skip else 0, total + PADDING), dtype)
        after_DR, work_R = np.empty((dim, size + PADDING), dtype), np.empty(size, dtype)
        stop = types * (thread + 1) // threads  # neighbors for a thread, as they share words of memory
        for begin in range(types * thread // threads, stop, width):
            inside = min(width, stop - begin)
            part_GQ = group_GQ[: inside * dim]
            load(map_M, last, begin * dim, part_GQ)
            for k in range(inside):
                _forward_type(
                    part_GQ, k * dim, begin + k, skip_DQ, taps_KBCP, matrix_SNED, scale_SC, offset_SC, statistics,
                    settings, after_DR, work_R,
                )  # fmt: skip
            store(part_GQ, out_M, out_last, begin * dim)


@kernel_part
def _forward_type(
    x_CQ: Any, row: int, n: int, skip_DQ: Any, taps_KBCP: Any, matrix_SNED: Any, scale_SC: Any, offset_SC: Any,
    statistics: Any, settings: Any, after_DR: Any, work_R: Any,
) -> None:  # fmt: skip
    """Take a type through its steps, in place. A pass squashes, multiplies by the next matrix, and adds up moments."""
    steps, dim, first = len(scale_SC), len(after_DR), n * len(after_DR)
    plain = steps - len(matrix_SNED)  # the first step may be without a matrix
    total, size, low = x_CQ.shape[1] - PADDING, len(work_R), settings.low
    mean_D, square_D = np.empty(dim), np.empty(dim)
    for s in range(steps + 1):
        mean_D[:] = 0
        square_D[:] = 0
        mixes, squashed = plain <= s < steps, s == 0
        if s > 0 and settings.tap_S[s - 1] >= 0:
            for start in range(0, total, size):
                count = min(size, total - start)
                squash_chunk(x_CQ, row, start, count, statistics, s - 1, first, low, after_DR, work_R)
                copy(after_DR, 0, 0, x_CQ, row, start, dim, count, False)
            store(x_CQ[row : row + dim], taps_KBCP[settings.tap_S[s - 1]], False, first)
            squashed = True
        for start in range(0, total, size):
            count = min(size, total - start)
            if not squashed:
                squash_chunk(x_CQ, row, start, count, statistics, s - 1, first, low, after_DR, work_R)
            elif mixes:
                copy(x_CQ, row, start, after_DR, 0, 0, dim, count, False)
            if s == steps:
                copy(after_DR, 0, 0, x_CQ, row, start, dim, count, False)
            if mixes:
                mix(matrix_SNED[s - plain, n], after_DR, 0, 0, x_CQ, row, start, count)
                if settings.skip and s == plain:
                    copy(after_DR, 0, 0, skip_DQ, 0, start, dim, count, False)
                if settings.skip and s == steps - 1:
                    copy(skip_DQ, 0, start, x_CQ, row, start, dim, count, True)
            if s < steps and not settings.given:
                add_moments(x_CQ, row, start, count, mean_D, square_D)
        if s < steps and not settings.given:
            square_D /= total
            write_normalizers(mean_D, square_D, scale_SC[s], offset_SC[s], statistics, s, first, settings)


@parallel_kernel
def _backward(
    map_M: Any, last: bool, gradient_M: Any, gradient_last: bool, taps_KBCP: Any, matrix_SNED: Any, matrix_SNDE: Any,
    statistics: Any, out_M: Any, matrix_gradient_SNED: Any, sum_SC: Any, moment_SC: Any, settings: Any,
) -> None:  # fmt: skip
    dim, dtype, types, threads = matrix_SNED.shape[2], map_M.dtype, settings.types, settings.threads
    total = len(map_M) * (map_M.shape[1] if last else map_M.shape[2])
    width, size = _width(dim, total, last or gradient_last, settings), min(max(CHUNK // dim, 1), total)
    for thread in numba.prange(threads):
        group_GQ = np.empty((width * dim, total + PADDING), dtype)
        gradient_GQ = np.empty((width * dim, total + PADDING), dtype)
        y_SDQ = np.empty((len(sum_SC), dim, total + PADDING), dtype)
        skip_DQ = np.empty((dim if settings.skip else 0, total + PADDING), dtype)
        tap_DQ = np.empty((dim if len(taps_KBCP) else 0, total + PADDING), dtype)
        work_KDR, work_KR = np.empty((2, dim, size + PADDING), dtype), np.empty((2, size), dtype)
        stop = types * (thread + 1) // threads  # neighbors for a thread, as they share words of memory
        for begin in range(types * thread // threads, stop, width):
            inside = min(width, stop - begin)
            part_GQ, gradient_part_GQ = group_GQ[: inside * dim], gradient_GQ[: inside * dim]
            load(map_M, last, begin * dim, part_GQ)
            load(gradient_M, gradient_last, begin * dim, gradient_part_GQ)
            for k in range(inside):
                row, n = k * dim, begin + k
                _write_normalized(part_GQ, row, n, y_SDQ, matrix_SNED, statistics, settings, work_KDR, work_KR)
                _backward_type(
                    part_GQ, gradient_part_GQ, row, n, y_SDQ, skip_DQ, tap_DQ, taps_KBCP, matrix_SNDE, statistics,
                    settings, matrix_gradient_SNED, sum_SC, moment_SC, work_KDR, work_KR,
                )  # fmt: skip
            store(gradient_part_GQ, out_M, last, begin * dim)


@kernel_part
def _write_normalized(
    x_CQ: Any, row: int, n: int, y_SDQ: Any, matrix_SNED: Any, statistics: Any, settings: Any, work_KDR: Any,
    work_KR: Any,
) -> None:  # fmt: skip
    """Write what each step normalizes."""
    steps, dim, _ = y_SDQ.shape
    plain = steps - len(matrix_SNED)
    total, size = x_CQ.shape[1] - PADDING, work_KR.shape[1]
    for start in range(0, total, size):
        count = min(size, total - start)
        if plain:
            copy(x_CQ, row, start, y_SDQ[0], 0, start, dim, count, False)
        for s in range(plain, steps):
            after_DR = work_KDR[0 if s == plain else 1]  # the first is what a skip adds
            if s == 0:
                copy(x_CQ, row, start, after_DR, 0, 0, dim, count, False)
            else:
                squash_chunk(
                    y_SDQ[s - 1], 0, start, count, statistics, s - 1, n * dim, settings.low, after_DR, work_KR[0]
                )
            mix(matrix_SNED[s - plain, n], after_DR, 0, 0, y_SDQ[s], 0, start, count)
            if settings.skip and s == steps - 1:
                copy(work_KDR[0], 0, 0, y_SDQ[s], 0, start, dim, count, True)


@kernel_part
def _backward_type(
    x_CQ: Any, gradient_CQ: Any, row: int, n: int, y_SDQ: Any, skip_DQ: Any, tap_DQ: Any, taps_KBCP: Any,
    matrix_SNDE: Any, statistics: Any, settings: Any, matrix_gradient_SNED: Any, sum_SC: Any, moment_SC: Any,
    work_KDR: Any, work_KR: Any,
) -> None:  # fmt: skip
    """Turn the gradient of the last step's output into the input's, in place.

    A pass goes through a step's normalization and matrix, and through the squash of the step before.
    """
    steps, dim, _ = y_SDQ.shape
    plain, first, low = steps - len(matrix_SNDE), n * dim, settings.low
    total, size = x_CQ.shape[1] - PADDING, work_KR.shape[1]
    through_DR, before_DR = work_KDR[0], work_KDR[1]
    sum_D, moment_D, total_ED = np.zeros(dim), np.zeros(dim), np.empty((dim, dim))
    constant_D, of_input_D = np.zeros(dim, x_CQ.dtype), np.zeros(dim, x_CQ.dtype)
    for s in range(steps, -1, -1):
        if s < steps:
            sum_SC[s, first : first + dim] = sum_D
            moment_SC[s, first : first + dim] = moment_D
            if settings.by_type:
                share(sum_D)
                share(moment_D)
            for d in range(0 if settings.given else dim):
                slope = statistics.slope[s, first + d] / total
                constant_D[d] = slope * sum_D[d]
                of_input_D[d] = slope * moment_D[d] / (statistics.variance[s, first + d] + settings.epsilon)
        sum_D[:] = 0
        moment_D[:] = 0
        total_ED[:] = 0
        tap = settings.tap_S[s - 1] if s > 0 else -1
        if tap >= 0:
            load(taps_KBCP[tap], False, first, tap_DQ)
        for start in range(0, total, size):
            count = min(size, total - start)
            if s < steps:
                normalize_backward(
                    y_SDQ[s], gradient_CQ, row, start, count, statistics, s, first, constant_D, of_input_D, through_DR
                )
            if plain <= s < steps:
                if s == 0:
                    add_products(through_DR, x_CQ, row, start, count, total_ED)
                else:
                    squash_chunk(y_SDQ[s - 1], 0, start, count, statistics, s - 1, first, low, before_DR, work_KR[0])
                    add_products(through_DR, before_DR, 0, 0, count, total_ED)
                mix(matrix_SNDE[s - plain, n], through_DR, 0, 0, gradient_CQ, row, start, count)
                if settings.skip and s == steps - 1:
                    copy(through_DR, 0, 0, skip_DQ, 0, start, dim, count, False)
                if settings.skip and s == plain:
                    copy(skip_DQ, 0, start, gradient_CQ, row, start, dim, count, True)
            elif s < plain:
                copy(through_DR, 0, 0, gradient_CQ, row, start, dim, count, False)
            if tap >= 0:
                copy(tap_DQ, 0, start, gradient_CQ, row, start, dim, count, True)
            if s > 0:
                squash_backward(
                    y_SDQ[s - 1], gradient_CQ, row, start, count, statistics, s - 1, first, low, work_KR,
                    sum_D, moment_D,
                )  # fmt: skip
        if plain <= s < steps:
            matrix_gradient_SNED[s - plain, n] = total_ED
