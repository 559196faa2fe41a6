"""The four passes of batch norm, ReLU and squash by torch's operations, in pieces that stay in the processor's cache.

Eager torch writes a map-sized tensor for each of some fifteen elementwise operations; most of a training step of a
capsule network is that traffic, not convolution. Here only the output and the gradient are map-sized. Maps may be
channels_last: they are then turned piece by piece, since squash runs along H * W.

Shape suffixes: B batch, C = N * D channels, N capsule types, D capsule dimension, P positions (H * W), b a piece of B.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from encapkeras.functional.torch_support.fake_tensors import has_values

PIECE = 1 << 18
"""Numbers in a piece: 1 MB in float32."""


def moments(map_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and biased variance."""
    map_BCP = map_BCHW.flatten(2)
    count = map_BCP.numel() // map_BCP.shape[1]
    mean = map_BCP.sum((0, 2)) / count
    variance = torch.zeros_like(mean)
    for (piece,) in _pieces(map_BCP):
        variance += (piece - _by_channel(mean)).square_().sum((0, 2))
    return mean, variance.div_(count)


def apply(
    map_BCHW: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, types: int, relu: bool, out_BCHW: torch.Tensor
) -> None:
    """Write `squash(relu(slope * x + shift))`, with ReLU or without."""
    for piece, out in _pieces(map_BCHW.flatten(2), out_BCHW.flatten(2)):
        capsules = _affine(piece, slope, shift, types, relu)
        length = (capsules * capsules).sum(2, keepdim=True).sqrt_()
        factor = length.add_(length.reciprocal()).reciprocal_()  # |s| / (1 + |s|^2); 0 for the zero vector
        if out.is_contiguous():
            torch.mul(capsules, factor, out=out.view(capsules.shape))
        else:
            out.copy_(capsules.mul_(factor).view(out.shape))


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
    total, moment = torch.zeros_like(mean), torch.zeros_like(mean)
    for piece, gradient, out in _pieces(map_BCHW.flatten(2), gradient_BCHW.flatten(2), out_BCHW.flatten(2)):
        turned = piece.contiguous()
        capsules = _affine(turned, slope, shift, types, relu)
        through = out if out.is_contiguous() else torch.empty_like(turned)
        gradient = gradient.contiguous().view(capsules.shape)
        _backward_relu_squash(capsules, gradient, relu, out=through.view(capsules.shape))
        total += through.sum((0, 2))
        centered = torch.sub(turned, _by_channel(mean), out=capsules.view(turned.shape))
        moment += centered.mul_(through).sum((0, 2))
        if through is not out:
            out.copy_(through)
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
    for piece, out in _pieces(map_BCHW.flatten(2), out_BCHW.flatten(2)):
        out.mul_(_by_channel(slope)).sub_(_by_channel(constant))
        out.addcmul_(piece - _by_channel(mean), _by_channel(of_input), value=-1)


def _pieces(*maps_BCP: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    samples = max(1, len(maps_BCP[0]))
    size = max(1, PIECE * samples // max(1, maps_BCP[0].numel())) if has_values(maps_BCP[0]) else samples
    return zip(*(map_BCP.split(size) for map_BCP in maps_BCP), strict=True)


def _by_channel(vector_C: torch.Tensor) -> torch.Tensor:
    return vector_C.view(1, -1, 1)


def _affine(piece_bCP: torch.Tensor, slope: torch.Tensor, shift: torch.Tensor, types: int, relu: bool) -> torch.Tensor:
    """The capsules `(b, N, D, P)` before squash, contiguous."""
    out = torch.empty(piece_bCP.shape, dtype=piece_bCP.dtype, device=piece_bCP.device)
    torch.addcmul(_by_channel(shift), piece_bCP, _by_channel(slope), out=out)
    capsules: torch.Tensor = (out.relu_() if relu else out).unflatten(1, (types, -1))
    return capsules


def _backward_relu_squash(capsules: torch.Tensor, gradient: torch.Tensor, relu: bool, out: torch.Tensor) -> None:
    """With `f = |s| / (1 + |s|^2)`: `f g + (f' / |s|) (s . g) s`, and 0 where ReLU cut."""
    square = (capsules * capsules).sum(2, keepdim=True)
    along = (capsules * gradient).sum(2, keepdim=True)
    length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_()
    inverse_above = (square + 1).reciprocal_()
    factor = (square * inverse_above).div_(length)  # 0 for the zero vector
    along.mul_(square.neg_().add_(1)).mul_(inverse_above).mul_(inverse_above).div_(length)
    torch.mul(gradient, factor, out=out).addcmul_(capsules, along)
    if relu:
        torch.ops.aten.threshold_backward.grad_input(out, capsules, 0, grad_input=out)
