"""Sequences as maps of one row: what convolutions and windows need to treat both by one way.

Shape suffixes: B batch, L steps, Q steps of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import torch
from torch.nn import functional as F

from encapkeras.layers.kernel_sizes import sides_of
from encapkeras.layers.registry import Shape


class ConvolutionSides(NamedTuple):
    """Kernel, strides and padding of a convolution, each in rows and columns."""

    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]


def convolution_sides(
    owner: str,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: int | Sequence[int] | None,
    *,
    flat: bool,
) -> ConvolutionSides:
    """Return the sides of a convolution; without padding half the kernel. A sequence, `flat`, has one row."""
    kernel = sides_of(owner, "kernel_size", kernel_size, flat=flat, across=1)
    if padding is None:
        border = (kernel[0] // 2, kernel[1] // 2)
    else:
        border = sides_of(owner, "padding", padding, flat=flat, across=0)
    return ConvolutionSides(kernel, sides_of(owner, "strides", strides, flat=flat, across=1), border)


def as_map_shape(shape: Shape) -> Shape:
    """Return the shape of a sequence as that of a map of one row."""
    return (shape[0], 1, *shape[1:])


def steps_mask(mask_BL: Any, steps: int, sides: ConvolutionSides) -> Any:
    """Return which steps of an output are real: those whose kernel or window has a real step at its center."""
    if mask_BL is None or not isinstance(mask_BL, torch.Tensor):
        return None
    first = sides.kernel_size[1] // 2 - sides.padding[1]
    places_Q = torch.arange(steps, device=mask_BL.device) * sides.strides[1] + first
    return mask_BL[:, places_Q.clamp(0, mask_BL.shape[1] - 1)]


def square_kernels(tree: Any) -> Any:
    """Return a tree of weights in which kernels of one row, `(out, in, 1, K)`, have rows of zeros around it.

    On a map of one row, a square kernel with half of it as padding is its middle row.
    """

    def square(weight: torch.Tensor | None) -> torch.Tensor | None:
        is_row = weight is not None and weight.dim() == 4 and weight.shape[2] == 1 < weight.shape[3]
        return F.pad(weight, (0, 0, *[weight.shape[3] // 2] * 2)) if weight is not None and is_row else weight

    return keras.tree.map_structure(square, tree)
