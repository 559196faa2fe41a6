"""Batch norm, ReLU and squash in few passes over the map; nothing but the input is kept for the backward pass.

By numba this is a single one of `type_steps`; elsewhere four passes, by torch's operations or by Triton (`kernels`).

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, S statistics: C or N.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from encapkeras.functional.block_weights import StepOptions
from encapkeras.functional.kernels import torch_norm
from encapkeras.functional.kernels.choice import runs_triton
from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.plain_gradients import plain_gradients
from encapkeras.functional.torch_support.shared_batch import shared_batch
from encapkeras.functional.type_steps import dense, plain_step, runs_type_steps, type_steps


def is_worthwhile(map_BCHW: torch.Tensor, *, training: bool) -> bool:
    """Return whether this is possible and faster: on CPUs or by Triton, in full precision, with own statistics."""
    full = map_BCHW.dtype in (torch.float32, torch.float64)
    shared = shared_batch()
    own = not training or shared is None or not shared.batch_norm
    return own and full and not is_traced() and (map_BCHW.device.type == "cpu" or runs_triton(map_BCHW))


@compilable
def batch_norm_relu_squash(
    map_BCHW: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    types: int,
    *,
    relu: bool = True,
    epsilon: float = 1e-5,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `squash(relu(batch_norm(map)))` with the batch's statistics.

    Differentiable any number of times; from the second on, by the plain operations. Not for `torch.func`.

    Args:
        map_BCHW: Map `(B, C, H, W)` with at least two values a channel; fastest if contiguous or channels_last.
        scale: `(C,)`, or `(N,)` for one statistic per capsule type.
        offset: As scale.
        types: Number N of capsule types; the components of a type are neighbors.
        relu: Whether there is a ReLU.
        epsilon: Added to the variance.
        memory_format: Of the result: `torch.channels_last` where a convolution comes next.

    Returns:
        The map `(B, C, H, W)`, and the batch's mean and biased variance, each in the shape of scale.

    Examples:
        >>> out, mean, variance = batch_norm_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4)
        >>> out.shape, mean.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([8]))
    """
    map_BCHW = dense(map_BCHW)
    if runs_type_steps(map_BCHW, types):
        times = map_BCHW.shape[1] // len(scale)  # the channels of a statistic
        options = StepOptions(types, relu, times > 1, epsilon, memory_format=memory_format)
        scale_SC, offset_SC = (each.repeat_interleave(times).unsqueeze(0) for each in (scale, offset))
        no_matrix = _no_matrix(map_BCHW, types)
        mean_SC, variance_SC, out_BCHW = type_steps(map_BCHW, no_matrix, scale_SC, offset_SC, options)
        return out_BCHW, mean_SC[0, ::times], variance_SC[0, ::times]
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _BatchNormReluSquash.apply(
        map_BCHW, scale, offset, types, relu, epsilon, memory_format
    )
    return result


@compilable
def affine_relu_squash(
    map_BCHW: torch.Tensor,
    slope: torch.Tensor,
    shift: torch.Tensor,
    types: int,
    *,
    relu: bool = True,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Return `squash(relu(slope * map + shift))`: batch norm in prediction, whose statistics are constants.

    Args:
        map_BCHW: Map `(B, C, H, W)`.
        slope: `(C,)`.
        shift: `(C,)`.
        types: Number N of capsule types; the components of a type are neighbors.
        relu: Whether there is a ReLU.
        memory_format: Of the result.

    Examples:
        >>> affine_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4).shape
        torch.Size([2, 8, 4, 4])
    """
    map_BCHW = dense(map_BCHW)
    if runs_type_steps(map_BCHW, types):
        options = StepOptions(types, relu, given=True, memory_format=memory_format)
        no_matrix = _no_matrix(map_BCHW, types)
        return type_steps(map_BCHW, no_matrix, slope.unsqueeze(0), shift.unsqueeze(0), options)[2]
    result: torch.Tensor = _AffineReluSquash.apply(map_BCHW, slope, shift, types, relu, memory_format)
    return result


def _no_matrix(map_BCHW: torch.Tensor, types: int) -> torch.Tensor:
    dim = map_BCHW.shape[1] // types
    return map_BCHW.new_empty(0, types, dim, dim)


def _passes(map_BCHW: torch.Tensor) -> Any:
    """The module with the passes."""
    full = map_BCHW.dtype in (torch.float32, torch.float64)
    if full and not is_traced() and map_BCHW.numel() and runs_triton(map_BCHW):
        from encapkeras.functional.kernels import triton_norm

        return triton_norm
    return torch_norm


class _BatchNormReluSquash(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        map_BCHW: torch.Tensor,
        scale_S: torch.Tensor,
        offset_S: torch.Tensor,
        types: int,
        relu: bool,
        epsilon: float,
        memory_format: torch.memory_format,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        passes = _passes(map_BCHW)
        mean, variance = passes.moments(map_BCHW)
        times = len(mean) // len(scale_S)  # the channels of a statistic
        if times > 1:
            mean_ND, variance_ND = mean.unflatten(0, (-1, times)), variance.unflatten(0, (-1, times))
            variance = variance_ND.mean(1) + mean_ND.var(1, correction=0)
            mean = mean_ND.mean(1)
        inverse = (variance + epsilon).rsqrt()
        slope = scale_S * inverse
        shift = offset_S - mean * slope
        out_BCHW = torch.empty_like(map_BCHW, memory_format=memory_format)
        vectors = [vector.repeat_interleave(times) if times > 1 else vector for vector in (slope, shift, mean)]
        passes.apply(map_BCHW, *vectors[:2], types, relu, out_BCHW)
        context.save_for_backward(map_BCHW, scale_S, offset_S, inverse, *vectors)
        context.options = {"types": types, "relu": relu, "epsilon": epsilon}
        context.passes = passes  # a GPU's backward pass is in another thread, which does not know the choice
        context.mark_non_differentiable(mean, variance)
        return out_BCHW, mean, variance

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        map_BCHW, scale_S, offset_S, inverse, slope, shift, mean = context.saved_tensors
        options = context.options
        if torch.is_grad_enabled():  # with create_graph=True
            plain = functools.partial(_plain, **options)
            return (*plain_gradients(plain, (map_BCHW, scale_S, offset_S), gradients[0]), *[None] * 4)
        passes = context.passes
        out_BCHW = torch.empty_like(map_BCHW)
        offset_gradient, moment = passes.apply_backward(
            map_BCHW, dense(gradients[0]), slope, shift, mean, options["types"], options["relu"], out_BCHW
        )
        times = len(mean) // len(scale_S)
        if times > 1:
            offset_gradient, moment = (each.unflatten(0, (-1, times)).sum(1) for each in (offset_gradient, moment))
        scale_gradient = inverse * moment
        # Batch norm's own backward: slope * (g - mean(g) - xhat * mean(g xhat)).
        slope_S = scale_S * inverse
        count = map_BCHW.numel() // len(scale_S)
        vectors = [slope_S * offset_gradient / count, slope_S * inverse * scale_gradient / count]
        if times > 1:
            vectors = [vector.repeat_interleave(times) for vector in vectors]
        passes.through_statistics(map_BCHW, slope, mean, *vectors, out_BCHW)
        return out_BCHW, scale_gradient, offset_gradient, None, None, None, None


class _AffineReluSquash(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        map_BCHW: torch.Tensor,
        slope: torch.Tensor,
        shift: torch.Tensor,
        types: int,
        relu: bool,
        memory_format: torch.memory_format,
    ) -> torch.Tensor:
        out_BCHW = torch.empty_like(map_BCHW, memory_format=memory_format)
        context.passes = _passes(map_BCHW)
        context.passes.apply(map_BCHW, slope, shift, types, relu, out_BCHW)
        context.save_for_backward(map_BCHW, slope, shift)
        context.options = {"types": types, "relu": relu}
        return out_BCHW

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        map_BCHW, slope, shift = context.saved_tensors
        if torch.is_grad_enabled():
            plain = functools.partial(_plain_affine, **context.options)
            return (*plain_gradients(plain, (map_BCHW, slope, shift), gradients[0]), None, None, None)
        out_BCHW, zero = torch.empty_like(map_BCHW), torch.zeros_like(slope)
        shift_gradient, slope_gradient = context.passes.apply_backward(
            map_BCHW, dense(gradients[0]), slope, shift, zero, *context.options.values(), out_BCHW
        )
        return out_BCHW.mul_(slope.view(-1, 1, 1)), slope_gradient, shift_gradient, None, None, None


def _plain(
    map_BCHW: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, types: int, relu: bool, epsilon: float
) -> torch.Tensor:
    times = map_BCHW.shape[1] // len(scale)
    options = StepOptions(types, relu, times > 1, epsilon)
    return plain_step(map_BCHW, scale.repeat_interleave(times), offset.repeat_interleave(times), options)


def _plain_affine(
    map_BCHW: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, types: int, relu: bool
) -> torch.Tensor:
    return plain_step(map_BCHW, slope, shift, StepOptions(types, relu, given=True))
