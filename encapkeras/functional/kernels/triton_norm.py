"""The four passes of batch norm, ReLU and squash as Triton kernels; `torch_norm` has the same by torch's operations.

A program holds blocks of a few channels, where there is a squash those of a capsule type, by some rows, the positions
of all samples. Sums over rows are those of parts, added in one order, so that results are the same in each run.

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, R = B * H * W rows, A parts of them.
"""

from __future__ import annotations

import torch

from encapkeras.functional.kernels import torch_norm
from encapkeras.functional.kernels.triton_compiler import (
    blocks,
    constexpr,
    kernel,
    on_device_of,
    power_of_two,
    tensor,
    tl,
)

_BLOCK = 2048
"""Numbers of a block, in the registers of a program."""
_WIDEST = 1024
"""Components of a capsule that fit; torch's operations take longer ones."""
_CHANNELS = 16
"""Channels of a block where all are alike."""
_PROGRAMS = 2048
"""Programs that add up rows: enough for any GPU, few enough for their sums to be small."""


def moments(map_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and biased variance, from those of the parts (Chan, Golub and LeVeque 1983)."""
    layout = Layout(map_BCHW, min(_CHANNELS, map_BCHW.shape[1]))
    means_AC, squares_AC = map_BCHW.new_empty(2, layout.parts, map_BCHW.shape[1]).unbind()
    with on_device_of(map_BCHW):
        _moments[layout.by_part](map_BCHW, means_AC, squares_AC, *layout.sizes, layout.part, **layout.sides)
    start_A1 = torch.arange(layout.parts, device=map_BCHW.device, dtype=map_BCHW.dtype).unsqueeze(1) * layout.part
    count_A1 = (layout.rows - start_A1).clamp_max(layout.part)
    mean = (means_AC * (count_A1 / layout.rows)).sum(0)
    variance = (squares_AC + count_A1 * (means_AC - mean).square()).sum(0) / layout.rows
    return mean, variance


def apply(
    map_BCHW: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, types: int, relu: bool, out_BCHW: torch.Tensor
) -> None:
    """Write `squash(relu(slope * x + shift))`, with ReLU or without."""
    layout = Layout(map_BCHW, map_BCHW.shape[1] // types)
    if layout.dim > _WIDEST:
        return torch_norm.apply(map_BCHW, slope, shift, types, relu, out_BCHW)
    given = (map_BCHW, slope, shift, out_BCHW)
    with on_device_of(map_BCHW):
        _apply[layout.by_block](*given, *layout.sizes, *_strides(out_BCHW), RELU=relu, **layout.sides)
    return None


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
    layout = Layout(map_BCHW, map_BCHW.shape[1] // types)
    if layout.dim > _WIDEST:
        return torch_norm.apply_backward(map_BCHW, gradient_BCHW, slope, shift, mean, types, relu, out_BCHW)
    sums_2AC = mean.new_empty(2, layout.parts, len(mean))
    given = (map_BCHW, gradient_BCHW, slope, shift, mean, out_BCHW, sums_2AC[0], sums_2AC[1])
    sizes = (*layout.sizes, *_strides(gradient_BCHW), *_strides(out_BCHW))
    with on_device_of(map_BCHW):
        _apply_backward[layout.by_part](*given, *sizes, layout.part, RELU=relu, **layout.sides)
    total, moment = sums_2AC.sum(1).unbind()
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
    layout = Layout(map_BCHW, min(_CHANNELS, map_BCHW.shape[1]))
    given = (map_BCHW, slope, mean, constant, of_input, out_BCHW)
    with on_device_of(map_BCHW):
        _through_statistics[layout.by_block](*given, *layout.sizes, *_strides(out_BCHW), **layout.sides)


def _strides(map_BCHW: torch.Tensor) -> tuple[int, int, int]:
    """Return the steps in memory from sample to sample, channel to channel and position to position."""
    channels, positions = map_BCHW.shape[1], map_BCHW.shape[2:].numel()
    if map_BCHW.is_contiguous():  # torch's own strides of sides of 1 may be any
        return channels * positions, positions, 1
    return channels * positions, 1, channels


class Layout:
    """Sizes and strides of a map, the blocks of its rows and channels, and the grids of programs."""

    def __init__(self, map_BCHW: torch.Tensor, dim: int) -> None:
        channels, positions = map_BCHW.shape[1], map_BCHW.shape[2:].numel()
        self.dim, self.rows = dim, map_BCHW.shape[0] * positions
        wide, groups = power_of_two(dim), blocks(channels, dim)
        long = min(max(16, power_of_two(self.rows)), max(1, _BLOCK // wide))
        steps = blocks(blocks(self.rows, long), max(1, _PROGRAMS // groups))
        self.part = steps * long
        self.parts = blocks(self.rows, self.part)
        self.sizes = (self.rows, positions, channels, dim, *_strides(map_BCHW))
        self.sides = {"SIDE_D": wide, "SIDE_R": long}
        self.by_part = (self.parts, groups)
        self.by_block = (blocks(self.rows, long), groups)


@kernel
def _places(
    index_R: tensor, channel_D: tensor, P: tensor, of_sample: tensor, of_channel: tensor, of_position: tensor
) -> tensor:
    """Where a block `(D, R)` lies in a map."""
    row_R = index_R.to(tl.int64)
    return channel_D[:, None] * of_channel + (row_R // P * of_sample + row_R % P * of_position)[None, :]


@kernel
def _channels(C: tensor, D: tensor, SIDE_D: constexpr) -> tensor:
    """The channels of a program's blocks, and which of them there are."""
    index_D = tl.arange(0, SIDE_D)
    channel_D = tl.program_id(1) * D + index_D
    return channel_D, (index_D < D) & (channel_D < C)


@kernel
def _load_vector(vector_C: tensor, channel_D: tensor, mask_D: tensor) -> tensor:
    return tl.load(vector_C + channel_D, mask=mask_D, other=0.0)[:, None]


@kernel
def _capsules(input_DR: tensor, slope_D1: tensor, shift_D1: tensor, mask_DR: tensor, RELU: constexpr) -> tensor:
    """What is squashed; 0 where a block is filled up."""
    capsule_DR = tl.where(mask_DR, input_DR * slope_D1 + shift_D1, 0.0)
    if RELU:
        capsule_DR = tl.where(capsule_DR > 0, capsule_DR, 0.0)
    return capsule_DR


@kernel
def _moments(
    map_BCHW: tensor, mean_AC: tensor, square_AC: tensor,
    R: tensor, P: tensor, C: tensor, D: tensor, of_sample: tensor, of_channel: tensor, of_position: tensor,
    part: tensor, SIDE_D: constexpr, SIDE_R: constexpr,
) -> None:  # fmt: skip
    """The mean of a part, and the sum of squares about it; each block changes both by what differs in it."""
    channel_D, mask_D = _channels(C, D, SIDE_D)
    mean_D = tl.zeros([SIDE_D], map_BCHW.dtype.element_ty)
    square_D, count_D = mean_D, mean_D
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, R)
    for start in range(first, last, SIDE_R):
        index_R = start + tl.arange(0, SIDE_R)
        place_DR = _places(index_R, channel_D, P, of_sample, of_channel, of_position)
        mask_DR = mask_D[:, None] & (index_R < last)[None, :]
        input_DR = tl.load(map_BCHW + place_DR, mask=mask_DR, other=0.0)
        more_D = tl.zeros([SIDE_D], mean_D.dtype) + tl.minimum(last - start, SIDE_R).to(mean_D.dtype)
        block_mean_D = tl.sum(input_DR, 1) / more_D
        centered_DR = tl.where(mask_DR, input_DR - block_mean_D[:, None], 0.0)
        differs_D = block_mean_D - mean_D
        part_D = more_D / (count_D + more_D)
        square_D += tl.sum(centered_DR * centered_DR, 1) + differs_D * differs_D * count_D * part_D
        mean_D += differs_D * part_D
        count_D += more_D
    place_D = tl.program_id(0).to(tl.int64) * C + channel_D
    tl.store(mean_AC + place_D, mean_D, mask=mask_D)
    tl.store(square_AC + place_D, square_D, mask=mask_D)


@kernel
def _apply(
    map_BCHW: tensor, slope_C: tensor, shift_C: tensor, out_BCHW: tensor,
    R: tensor, P: tensor, C: tensor, D: tensor, of_sample: tensor, of_channel: tensor, of_position: tensor,
    out_sample: tensor, out_channel: tensor, out_position: tensor,
    RELU: constexpr, SIDE_D: constexpr, SIDE_R: constexpr,
) -> None:  # fmt: skip
    channel_D, mask_D = _channels(C, D, SIDE_D)
    index_R = tl.program_id(0).to(tl.int64) * SIDE_R + tl.arange(0, SIDE_R)
    mask_DR = mask_D[:, None] & (index_R < R)[None, :]
    place_DR = _places(index_R, channel_D, P, of_sample, of_channel, of_position)
    input_DR = tl.load(map_BCHW + place_DR, mask=mask_DR, other=0.0)
    slope_D1, shift_D1 = _load_vector(slope_C, channel_D, mask_D), _load_vector(shift_C, channel_D, mask_D)
    capsule_DR = _capsules(input_DR, slope_D1, shift_D1, mask_DR, RELU)
    length_R = tl.sqrt(tl.sum(capsule_DR * capsule_DR, 0))
    safe_R = tl.where(length_R > 0, length_R, 1.0)
    factor_R = 1 / (safe_R + 1 / safe_R)
    out_DR = _places(index_R, channel_D, P, out_sample, out_channel, out_position)
    tl.store(out_BCHW + out_DR, capsule_DR * factor_R[None, :], mask=mask_DR)


@kernel
def _through_squash(capsule_DR: tensor, gradient_DR: tensor, RELU: constexpr) -> tensor:
    """With `f = |s| / (1 + |s|^2)`: `f g + (f' / |s|) (s . g) s`, and 0 where ReLU cut."""
    square_R = tl.sum(capsule_DR * capsule_DR, 0)
    along_R = tl.sum(capsule_DR * gradient_DR, 0)
    length_R = tl.sqrt(square_R)
    above_R = 1 / (square_R + 1)
    bend_R = along_R * (1 - square_R) * above_R * above_R / tl.where(square_R > 0, length_R, 1.0)
    through_DR = gradient_DR * (length_R * above_R)[None, :] + capsule_DR * bend_R[None, :]
    if RELU:
        through_DR = tl.where(capsule_DR > 0, through_DR, 0.0)
    return through_DR


@kernel
def _apply_backward(
    map_BCHW: tensor, gradient_BCHW: tensor, slope_C: tensor, shift_C: tensor, mean_C: tensor, out_BCHW: tensor,
    total_AC: tensor, moment_AC: tensor,
    R: tensor, P: tensor, C: tensor, D: tensor, of_sample: tensor, of_channel: tensor, of_position: tensor,
    g_sample: tensor, g_channel: tensor, g_position: tensor,
    out_sample: tensor, out_channel: tensor, out_position: tensor,
    part: tensor, RELU: constexpr, SIDE_D: constexpr, SIDE_R: constexpr,
) -> None:  # fmt: skip
    channel_D, mask_D = _channels(C, D, SIDE_D)
    slope_D1, shift_D1 = _load_vector(slope_C, channel_D, mask_D), _load_vector(shift_C, channel_D, mask_D)
    mean_D1 = _load_vector(mean_C, channel_D, mask_D)
    total_D = tl.zeros([SIDE_D], mean_D1.dtype)
    moment_D = total_D
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, R)
    for start in range(first, last, SIDE_R):
        index_R = start + tl.arange(0, SIDE_R)
        mask_DR = mask_D[:, None] & (index_R < last)[None, :]
        place_DR = _places(index_R, channel_D, P, of_sample, of_channel, of_position)
        input_DR = tl.load(map_BCHW + place_DR, mask=mask_DR, other=0.0)
        g_DR = _places(index_R, channel_D, P, g_sample, g_channel, g_position)
        gradient_DR = tl.load(gradient_BCHW + g_DR, mask=mask_DR, other=0.0)
        through_DR = _through_squash(_capsules(input_DR, slope_D1, shift_D1, mask_DR, RELU), gradient_DR, RELU)
        total_D += tl.sum(through_DR, 1)
        moment_D += tl.sum(through_DR * (input_DR - mean_D1), 1)
        out_DR = _places(index_R, channel_D, P, out_sample, out_channel, out_position)
        tl.store(out_BCHW + out_DR, through_DR, mask=mask_DR)
    place_D = tl.program_id(0).to(tl.int64) * C + channel_D
    tl.store(total_AC + place_D, total_D, mask=mask_D)
    tl.store(moment_AC + place_D, moment_D, mask=mask_D)


@kernel
def _through_statistics(
    map_BCHW: tensor, slope_C: tensor, mean_C: tensor, constant_C: tensor, of_input_C: tensor, out_BCHW: tensor,
    R: tensor, P: tensor, C: tensor, D: tensor, of_sample: tensor, of_channel: tensor, of_position: tensor,
    out_sample: tensor, out_channel: tensor, out_position: tensor,
    SIDE_D: constexpr, SIDE_R: constexpr,
) -> None:  # fmt: skip
    channel_D, mask_D = _channels(C, D, SIDE_D)
    index_R = tl.program_id(0).to(tl.int64) * SIDE_R + tl.arange(0, SIDE_R)
    mask_DR = mask_D[:, None] & (index_R < R)[None, :]
    place_DR = _places(index_R, channel_D, P, of_sample, of_channel, of_position)
    out_DR = _places(index_R, channel_D, P, out_sample, out_channel, out_position)
    input_DR = tl.load(map_BCHW + place_DR, mask=mask_DR, other=0.0)
    through_DR = tl.load(out_BCHW + out_DR, mask=mask_DR, other=0.0)
    slope_D1, mean_D1 = _load_vector(slope_C, channel_D, mask_D), _load_vector(mean_C, channel_D, mask_D)
    through_DR = through_DR * slope_D1 - _load_vector(constant_C, channel_D, mask_D)
    through_DR -= (input_DR - mean_D1) * _load_vector(of_input_C, channel_D, mask_D)
    tl.store(out_BCHW + out_DR, through_DR, mask=mask_DR)


KERNELS = (_moments, _apply, _apply_backward, _through_statistics)
"""All that are launched, for tests that translate them for GPUs."""
