"""Steps that each capsule type takes by itself: a matrix, batch norm, ReLU and squash, some of them in a row.

Shape suffixes: B batch, C = N * D channels, N capsule types, D and E capsule dimensions, P positions (H * W), S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.functional.block_weights import StepOptions
from encapkeras.functional.kernels.choice import runs_numba
from encapkeras.functional.mix_types import mix_types
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.plain_gradients import gradients_of
from encapkeras.functional.torch_support.precision import without_autocast


def runs_type_steps(map_BCHW: torch.Tensor, types: int) -> bool:
    """Return whether the kernels run here, and have work for most of the threads: they share out the types."""
    return map_BCHW.numel() > 0 and 2 * types >= torch.get_num_threads() and runs_numba(map_BCHW)


def type_steps(
    map_BCHW: torch.Tensor,
    matrix_SNED: torch.Tensor,
    scale_SC: torch.Tensor,
    offset_SC: torch.Tensor,
    options: StepOptions,
) -> tuple[torch.Tensor, ...]:
    """Take steps `squash(relu(batch_norm(matrix @ capsule)))` by numba's kernels.

    Only the input is kept for the backward pass, which takes the steps again. Differentiable any number of times; from
    the second on, by the plain operations. Not for `torch.func`.

    Args:
        map_BCHW: Map `(B, C, H, W)` with at least two values a channel, contiguous or channels_last.
        matrix_SNED: The matrices of each step, with E = D; those of the first step may be missing.
        scale_SC: Of each step's batch norm.
        offset_SC: Of each step's batch norm.
        options: See `StepOptions`.

    Returns:
        The batch's means and biased variances `(S, C)`, the last step's output, and those of `options.taps`.
    """
    result: tuple[torch.Tensor, ...] = _TypeSteps.apply(map_BCHW, matrix_SNED, scale_SC, offset_SC, options)
    return result


class _TypeSteps(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        map_BCHW: torch.Tensor,
        matrix_SNED: torch.Tensor,
        scale_SC: torch.Tensor,
        offset_SC: torch.Tensor,
        options: StepOptions,
    ) -> tuple[torch.Tensor, ...]:
        if options.given:
            zero = torch.zeros_like(scale_SC)
            vectors = [scale_SC, offset_SC, zero, zero]
        else:
            vectors = [torch.empty_like(scale_SC) for _ in range(4)]
        out_BCHW = torch.empty_like(map_BCHW, memory_format=options.memory_format)
        if has_values(map_BCHW):
            from encapkeras.functional.kernels import numba_steps

            affine = None if options.given else (scale_SC, offset_SC)
            statistics = numba_steps.Statistics(*vectors)
            taps_KBCP = numba_steps.forward(map_BCHW, matrix_SNED, statistics, affine, options, out_BCHW)
        else:  # an estimate: shapes, and products that are counted
            taps_KBCP = map_BCHW.new_empty(len(options.taps), *map_BCHW.flatten(2).shape)
            for matrix_NED in matrix_SNED:
                mix_types(map_BCHW, matrix_NED)
        context.save_for_backward(map_BCHW, matrix_SNED, scale_SC, offset_SC, *vectors)
        context.options = options
        context.set_materialize_grads(False)
        mean, variance = (vector.clone() for vector in vectors[2:])  # a graph may keep one alone
        context.mark_non_differentiable(mean, variance)
        return mean, variance, out_BCHW, *(tap_BCP.view(map_BCHW.shape) for tap_BCP in taps_KBCP)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        from encapkeras.functional.kernels import numba_steps

        map_BCHW, matrix_SNED, scale_SC, offset_SC, *vectors = context.saved_tensors
        options: StepOptions = context.options
        upstream = [gradient for gradient in gradients[2:] if gradient is not None]
        if not upstream:
            return (None,) * 5
        if torch.is_grad_enabled():  # with create_graph=True
            inputs = [each.view_as(each) for each in (map_BCHW, matrix_SNED, scale_SC, offset_SC)]
            with without_autocast(map_BCHW):
                outputs = _plain(inputs[0], inputs[1], inputs[2], inputs[3], options)
                wanted = [out for out, gradient in zip(outputs, gradients[2:], strict=True) if gradient is not None]
                return *gradients_of(wanted, inputs, upstream, create_graph=True), None
        gradient, *tapped = gradients[2:]
        map_gradient, matrix_gradient, offset_gradient, moment = numba_steps.backward(
            map_BCHW,
            matrix_SNED,
            numba_steps.Statistics(*vectors),
            torch.zeros_like(map_BCHW) if gradient is None else dense(gradient),
            tapped,
            options,
        )
        scale_gradient = moment if options.given else moment * (vectors[3] + options.epsilon).rsqrt()
        return map_gradient, matrix_gradient, scale_gradient, offset_gradient, None


def dense(map_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the map, contiguous where it is neither contiguous nor channels_last."""
    if map_BCHW.is_contiguous() or map_BCHW.is_contiguous(memory_format=torch.channels_last):
        return map_BCHW
    return map_BCHW.contiguous()


def _plain(
    map_BCHW: torch.Tensor,
    matrix_SNED: torch.Tensor,
    scale_SC: torch.Tensor,
    offset_SC: torch.Tensor,
    options: StepOptions,
) -> Sequence[torch.Tensor]:
    """The last step's output and those of the taps, by torch's operations."""
    steps = len(scale_SC)
    base, taps = None, []
    for number in range(steps):
        step = number - (steps - len(matrix_SNED))
        if step >= 0:
            base = map_BCHW if step == 0 else base
            skipped = base if options.skip and number == steps - 1 else None
            map_BCHW = mix_types(map_BCHW, matrix_SNED[step], skipped)
        map_BCHW = plain_step(map_BCHW, scale_SC[number], offset_SC[number], options)
        if number in options.taps:
            taps.append(map_BCHW)
    return map_BCHW, *taps


def plain_step(
    map_BCHW: torch.Tensor, scale_C: torch.Tensor, offset_C: torch.Tensor, options: StepOptions
) -> torch.Tensor:
    """Return `squash(relu(batch_norm(map)))` by torch's operations."""
    if options.given:
        map_BCHW = torch.addcmul(offset_C.view(-1, 1, 1), map_BCHW, scale_C.view(-1, 1, 1))
    elif options.by_type:
        by_type = map_BCHW.flatten(2).unflatten(1, (options.types, -1)).flatten(2)
        normed = F.batch_norm(by_type, None, None, None, None, True, 0.0, options.epsilon).view(map_BCHW.shape)
        map_BCHW = torch.addcmul(offset_C.view(-1, 1, 1), normed, scale_C.view(-1, 1, 1))
    else:
        map_BCHW = F.batch_norm(map_BCHW.flatten(2), None, None, scale_C, offset_C, True, 0.0, options.epsilon).view(
            map_BCHW.shape
        )
    rectified_BCHW = F.relu(map_BCHW) if options.relu else map_BCHW
    return squash(rectified_BCHW.unflatten(1, (options.types, -1)), dim=2).flatten(1, 2)
