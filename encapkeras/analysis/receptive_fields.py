"""Where the positions of a capsule map are in the image.

Shape suffixes: H W pixels of the image, P Q positions of the map, B and K any.
"""

from __future__ import annotations

import keras
import torch
from torch import Tensor

PROBES = 4  # random images: a unit that one of them leaves at zero is seen through another


def upsampling(model: keras.Model, tensor: keras.KerasTensor) -> tuple[Tensor, Tensor]:
    """Return the matrices `(H, P)` and `(W, Q)` that interpolate a map linearly between the centers of its positions.

    The center of a position is that of its receptive field: of the pixels on which it depends, as it would be without
    the edges of the image. Where that cannot be seen, as with fields as large as the image, the positions divide the
    image evenly. Pixels beyond the outermost centers belong to the outermost position. Columns sum to 1, so that what
    a position has is spread over its pixels.

    Args:
        model: A network with one input `(B, H, W, C)`.
        tensor: A symbolic tensor in it, `(B, P, Q, ...)`.
    """
    size = tuple(model.inputs[0].shape[1:3])
    fields = _fields(model, tensor)
    rows, columns = (_matrix(field, pixels) for field, pixels in zip(fields, size, strict=True))
    return rows, columns


def upsample(flow_BKPQ: Tensor, rows_HP: Tensor, columns_WQ: Tensor) -> Tensor:
    """Return a map over the image, `(B, K, H, W)`, with the sum that it has over its positions."""
    map_BKHW = rows_HP.to(flow_BKPQ) @ flow_BKPQ @ columns_WQ.to(flow_BKPQ).T
    total = map_BKHW.sum((2, 3), keepdim=True)
    return map_BKHW * (flow_BKPQ.sum((2, 3), keepdim=True) / total.where(total > 0, 1))


def _fields(model: keras.Model, tensor: keras.KerasTensor) -> list[list[tuple[int, int] | None]]:
    """Return for rows and columns the first and last pixel on which each position depends; None if there is none."""
    random = torch.Generator().manual_seed(0)
    probes = torch.rand(PROBES, *model.inputs[0].shape[1:], generator=random)
    leaf = keras.ops.convert_to_tensor(probes).requires_grad_()
    with torch.enable_grad():
        made = keras.Model(model.inputs, tensor)(leaf, training=False)
        weighted = made * torch.rand(made.shape, generator=random).to(made)  # so that nothing cancels out
    fields = []
    for axis in (1, 2):
        found: list[tuple[int, int] | None] = []
        for part in weighted.unbind(axis):
            (gradient,) = torch.autograd.grad(part.sum(), leaf, retain_graph=True)
            seen = gradient.ne(0).transpose(0, axis).flatten(1).any(1).nonzero()
            found.append((int(seen[0]), int(seen[-1])) if len(seen) else None)
        fields.append(found)
    return fields


def _centers(field: list[tuple[int, int] | None], pixels: int) -> tuple[float, float]:
    """Return the center of the first position, in pixels from 0, and the step from each to the next."""
    even = pixels / len(field)
    firsts = [(place, seen[0]) for place, seen in enumerate(field) if seen and seen[0] > 0]
    lasts = [(place, seen[1]) for place, seen in enumerate(field) if seen and seen[1] < pixels - 1]
    steps = [(ends[-1][1] - ends[0][1]) / (ends[-1][0] - ends[0][0]) for ends in (firsts, lasts) if len(ends) > 1]
    if not firsts or not lasts or not steps or min(steps) <= 0:
        return (even - 1) / 2, even
    step = sum(steps) / len(steps)
    (first, top), (last, bottom) = firsts[-1], lasts[0]
    return (top - step * first + bottom - step * last) / 2, step


def _matrix(field: list[tuple[int, int] | None], pixels: int) -> Tensor:
    first, step = _centers(field, pixels)
    place_H1 = ((torch.arange(pixels).unsqueeze(1) - first) / step).clamp(0, len(field) - 1)
    matrix_HP = (1 - (place_H1 - torch.arange(len(field))).abs()).clamp_min(0)
    return matrix_HP / matrix_HP.sum(0).clamp_min(torch.finfo(matrix_HP.dtype).tiny)
