"""Batch norm, ReLU and squash in one pass over the batch, in pieces that stay in the processor's cache.

Eager torch writes a map-sized tensor for each of some fifteen elementwise operations; most of a training step of a
capsule network is that traffic, not convolution. Here only the output and the gradient are map-sized, and nothing but
the input is kept for the backward pass.

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, P positions (H * W), b a piece of B.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.plain_gradients import plain_gradients
from encapkeras.functional.torch_support.shared_batch import shared_batch

PIECE = 1 << 18
"""Numbers in a piece: 1 MB in float32."""


def is_worthwhile(map_BCHW: torch.Tensor) -> bool:
    """Return whether this is possible and faster: on CPUs, in full precision, with this process's own statistics."""
    full = map_BCHW.dtype in (torch.float32, torch.float64)
    shared = shared_batch()
    own = shared is None or not shared.batch_norm
    return own and map_BCHW.device.type == "cpu" and full and not is_traced()


@compilable
def batch_norm_relu_squash(
    map_BCHW: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    types: int,
    *,
    epsilon: float = 1e-5,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `squash(relu(batch_norm(map)))` with the batch's statistics.

    Differentiable any number of times; from the second on, by the plain operations. Not for `torch.func`.

    Args:
        map_BCHW: Map `(B, C, H, W)` with at least two values a channel; fastest if contiguous or channels_last.
        scale: `(C,)`.
        offset: `(C,)`.
        types: Number N of capsule types; the components of a type are neighbors.
        epsilon: Added to the variance.
        memory_format: Of the result: `torch.channels_last` where a convolution comes next.

    Returns:
        The map `(B, C, H, W)`, and the batch's mean and biased variance, `(C,)` each.

    Examples:
        >>> out, mean, variance = batch_norm_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4)
        >>> out.shape, mean.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([8]))
    """
    if not (map_BCHW.is_contiguous() or map_BCHW.is_contiguous(memory_format=torch.channels_last)):
        map_BCHW = map_BCHW.contiguous()
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _BatchNormReluSquash.apply(
        map_BCHW, scale, offset, types, epsilon, memory_format
    )
    return result


def _pieces(*maps_BCP: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    size = max(1, PIECE // maps_BCP[0][0].numel()) if has_values(maps_BCP[0]) else len(maps_BCP[0])
    return zip(*(map_BCP.split(size) for map_BCP in maps_BCP), strict=True)


def _by_channel(vector_C: torch.Tensor) -> torch.Tensor:
    return vector_C.view(1, -1, 1)


class _BatchNormReluSquash(torch.autograd.Function):
    """Maps may be channels_last: they are then turned piece by piece, in the cache, since squash runs along H * W."""

    @staticmethod
    def forward(
        context: Any,
        map_BCHW: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor,
        types: int,
        epsilon: float,
        memory_format: torch.memory_format,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        map_BCP = map_BCHW.flatten(2)
        count = map_BCP.numel() // map_BCP.shape[1]
        mean = map_BCP.sum((0, 2)) / count
        variance = torch.zeros_like(mean)
        for (piece,) in _pieces(map_BCP):
            variance += (piece - _by_channel(mean)).square_().sum((0, 2))
        variance /= count
        inverse = (variance + epsilon).rsqrt()
        slope = scale * inverse
        shift = offset - mean * slope
        out_BCHW = torch.empty_like(map_BCHW, memory_format=memory_format)
        by_type = (-1, types, map_BCP.shape[1] // types, map_BCP.shape[2])
        for piece, out in _pieces(map_BCP, out_BCHW.flatten(2)):
            capsules = _normalize_and_rectify(piece, slope, shift, by_type)
            length = (capsules * capsules).sum(2, keepdim=True).sqrt_()
            factor = length.add_(length.reciprocal()).reciprocal_()  # |s| / (1 + |s|^2); 0 for the zero vector
            if out.is_contiguous():
                torch.mul(capsules, factor, out=out.view(by_type))
            else:
                out.copy_(capsules.mul_(factor).view(out.shape))
        context.save_for_backward(map_BCHW, scale, offset, mean, inverse, slope, shift)
        context.by_type = by_type
        context.epsilon = epsilon
        context.mark_non_differentiable(mean, variance)
        return out_BCHW, mean, variance

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        map_BCHW, scale, offset, mean, inverse, slope, shift = context.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            plain = functools.partial(_plain, types=context.by_type[1], epsilon=context.epsilon)
            return (*plain_gradients(plain, (map_BCHW, scale, offset), gradients[0]), None, None, None)
        map_BCP, gradient_BCP = map_BCHW.flatten(2), gradients[0].flatten(2)
        result_BCHW = torch.empty_like(map_BCHW)
        offset_gradient = torch.zeros_like(mean)
        moment = torch.zeros_like(mean)
        for piece, gradient, result in _pieces(map_BCP, gradient_BCP, result_BCHW.flatten(2)):
            turned = piece.contiguous()
            capsules = _normalize_and_rectify(turned, slope, shift, context.by_type)
            through = result if result.is_contiguous() else torch.empty_like(turned)
            gradient = gradient.contiguous().view(context.by_type)
            _backward_relu_squash(capsules, gradient, out=through.view(context.by_type))
            offset_gradient += through.sum((0, 2))
            centered = torch.sub(turned, _by_channel(mean), out=capsules.view(turned.shape))
            moment += centered.mul_(through).sum((0, 2))
            if through is not result:
                result.copy_(through)
        scale_gradient = inverse * moment
        # Batch norm's own backward: slope * (g - mean(g) - xhat * mean(g xhat)).
        count = map_BCP.numel() // map_BCP.shape[1]
        of_input = slope * inverse * scale_gradient / count
        constant = slope * offset_gradient / count
        for piece, result in _pieces(map_BCP, result_BCHW.flatten(2)):
            result.mul_(_by_channel(slope)).sub_(_by_channel(constant))
            result.addcmul_(piece - _by_channel(mean), _by_channel(of_input), value=-1)
        return result_BCHW, scale_gradient, offset_gradient, None, None, None


def _plain(
    map_BCHW: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, types: int, epsilon: float
) -> torch.Tensor:
    rectified = F.relu(F.batch_norm(map_BCHW, None, None, scale, offset, True, 0.0, epsilon))
    return squash(rectified.unflatten(1, (types, -1)), dim=2).flatten(1, 2)


def _normalize_and_rectify(
    piece_bCP: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, by_type: tuple[int, ...]
) -> torch.Tensor:
    """The normalized and rectified capsules `(b, N, D, P)`, contiguous."""
    out = torch.empty(piece_bCP.shape, dtype=piece_bCP.dtype, device=piece_bCP.device)
    torch.addcmul(_by_channel(shift), piece_bCP, _by_channel(slope), out=out)
    return out.relu_().view(by_type)


def _backward_relu_squash(capsules: torch.Tensor, gradient: torch.Tensor, out: torch.Tensor) -> None:
    """Gradient before ReLU and squash, of rectified capsules `(b, N, D, P)`: `f g + (f' / |s|) (s . g) s`, masked."""
    square = (capsules * capsules).sum(2, keepdim=True)
    along = (capsules * gradient).sum(2, keepdim=True)
    length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_()
    inverse_above = (square + 1).reciprocal_()
    along.mul_(square.neg_().add_(1)).mul_(inverse_above).mul_(inverse_above).div_(length)
    torch.mul(gradient, length.mul_(inverse_above), out=out).addcmul_(capsules, along)
    torch.ops.aten.threshold_backward.grad_input(out, capsules, 0, grad_input=out)
