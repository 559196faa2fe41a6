"""Batch norm, ReLU and squash in one pass over the batch, in pieces that stay in the processor's cache.

Eager torch writes a map-sized tensor for each of some fifteen elementwise operations; most of a training step of a
capsule network is that traffic, not convolution. Here only the output and the gradient are map-sized, and nothing but
the input is kept for the backward pass.

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, P positions (H * W), b a piece of B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

PIECE = 1 << 18
"""Numbers in a piece: 1 MB in float32."""


def is_worthwhile(map_BCHW: torch.Tensor) -> bool:
    """Whether this is the faster way: on CPUs, in full precision, outside torch.compile (which fuses by itself)."""
    full = map_BCHW.dtype in (torch.float32, torch.float64)
    return map_BCHW.device.type == "cpu" and full and not torch.compiler.is_compiling()


def batch_norm_relu_squash(
    map_BCHW: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, types: int, epsilon: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`squash(relu(batch_norm(map)))` with the batch's statistics; differentiable once.

    Args:
        map_BCHW: Map `(B, C, H, W)` with at least two values a channel.
        scale: `(C,)`.
        offset: `(C,)`.
        types: Number N of capsule types; the components of a type are neighbours.
        epsilon: Added to the variance.

    Returns:
        The map `(B, C, H, W)`, and the batch's mean and biased variance, `(C,)` each.

    Example:
        >>> out, mean, variance = batch_norm_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4)
        >>> out.shape, mean.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([8]))
    """
    return _BatchNormReluSquash.apply(map_BCHW, scale, offset, types, epsilon)  # type: ignore[no-any-return]


def _pieces(*maps_BCP: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The maps in equal pieces of the batch."""
    size = max(1, PIECE // maps_BCP[0][0].numel())
    return zip(*(map_BCP.split(size) for map_BCP in maps_BCP), strict=True)


def _by_channel(vector_C: torch.Tensor) -> torch.Tensor:
    return vector_C.view(1, -1, 1)


class _BatchNormReluSquash(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, map_BCHW: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, types: int, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        map_BCP = map_BCHW.contiguous().flatten(2)
        count = map_BCP.numel() // map_BCP.shape[1]
        mean = map_BCP.sum((0, 2)) / count
        variance = torch.zeros_like(mean)
        for (piece,) in _pieces(map_BCP):
            variance += (piece - _by_channel(mean)).square_().sum((0, 2))
        variance /= count
        inverse = (variance + epsilon).rsqrt()
        slope = scale * inverse
        shift = offset - mean * slope
        out_BCP = torch.empty_like(map_BCP)
        by_type = (-1, types, map_BCP.shape[1] // types, map_BCP.shape[2])
        for piece, out in _pieces(map_BCP, out_BCP):
            capsules = torch.addcmul(_by_channel(shift), piece, _by_channel(slope)).relu_().view(by_type)
            length = (capsules * capsules).sum(2, keepdim=True).sqrt_()
            factor = length.add_(length.reciprocal()).reciprocal_()  # |s| / (1 + |s|^2); 0 for the zero vector
            torch.mul(capsules, factor, out=out.view(by_type))
        context.save_for_backward(map_BCP, mean, inverse, slope, shift)
        context.by_type = by_type
        context.mark_non_differentiable(mean, variance)
        return out_BCP.view(map_BCHW.shape), mean, variance

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        map_BCP, mean, inverse, slope, shift = context.saved_tensors
        gradient_BCP = gradients[0].contiguous().flatten(2)
        result_BCP = torch.empty_like(map_BCP)
        offset_gradient = torch.zeros_like(mean)
        moment = torch.zeros_like(mean)
        for piece, gradient, result in _pieces(map_BCP, gradient_BCP, result_BCP):
            capsules = torch.addcmul(_by_channel(shift), piece, _by_channel(slope)).relu_().view(context.by_type)
            through = _through_relu_squash(capsules, gradient.view(context.by_type), out=result.view(context.by_type))
            offset_gradient += through.view(piece.shape).sum((0, 2))
            moment += torch.mul(result, piece, out=capsules.view(piece.shape)).sum((0, 2))
        scale_gradient = inverse * (moment - mean * offset_gradient)
        # Batch norm's own backward: slope * (g - mean(g) - xhat * mean(g xhat)).
        count = map_BCP.numel() // map_BCP.shape[1]
        of_input = slope * inverse * scale_gradient / count
        constant = slope * offset_gradient / count - mean * of_input
        for piece, result in _pieces(map_BCP, result_BCP):
            result.mul_(_by_channel(slope)).sub_(_by_channel(constant))
            result.addcmul_(piece, _by_channel(of_input), value=-1)
        shape = gradients[0].shape
        return result_BCP.view(shape), scale_gradient, offset_gradient, None, None


def _through_relu_squash(capsules: torch.Tensor, gradient: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Gradient before ReLU and squash, of rectified capsules `(b, N, D, P)`: `f g + (f' / |s|) (s . g) s`, masked."""
    square = (capsules * capsules).sum(2, keepdim=True)
    along = (capsules * gradient).sum(2, keepdim=True)
    length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_()
    inverse_above = (square + 1).reciprocal_()
    along.mul_(square.neg_().add_(1)).mul_(inverse_above).mul_(inverse_above).div_(length)
    torch.mul(gradient, length.mul_(inverse_above), out=out).addcmul_(capsules, along)
    return torch.ops.aten.threshold_backward.grad_input(out, capsules, 0, grad_input=out)  # type: ignore[no-any-return]
