"""Plain convolution, batch norm and ReLU, with torch's padding; and the padding of other libraries.

Shape suffixes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError
from encapkeras.functional.batch_norm import NormWeights, batch_norm

Padding = Literal["same", "valid"]
"""Zeros around a map, so that its sides are divided by the stride, rounded up; or none."""


def padding_of(size: tuple[int, int], kernel: tuple[int, int], strides: int, padding: Padding) -> list[int]:
    """Return how many zeros `padding` means: on the left, on the right, at the top and at the bottom.

    Args:
        size: Height and width of the map.
        kernel: Height and width of the kernel.
        strides: Stride.
        padding: `same` or `valid`.

    Examples:
        >>> padding_of((4, 5), (3, 3), 2, "same")
        [1, 1, 0, 1]
    """
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding != "same":
        raise ArgumentError(f"padding must be 'same' or 'valid'; received {padding!r}")
    zeros: list[int] = []
    for length, side in zip(size, kernel, strict=True):
        total = max((-(-length // strides) - 1) * strides + side - length, 0)
        zeros = [total // 2, total - total // 2, *zeros]  # the last axis first, as torch has it
    return zeros


def conv_bn_relu(
    image_BHWC: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    norm: NormWeights,
    *,
    strides: int | tuple[int, int],
    padding: int | tuple[int, int],
    training: bool,
) -> torch.Tensor:
    """`relu(batch_norm(convolution(image) + bias))`.

    Args:
        image_BHWC: Image `(B, H, W, C)`.
        kernel: `(filters, C, K, K)`, or of two sides.
        bias: `(filters,)`, or None.
        norm: Weights of the batch norm, each `(filters,)`.
        strides: Stride; one number, or rows and columns.
        padding: Zeros on each side; one number, or rows and columns.
        training: Whether the batch norm uses and records the batch's statistics.

    Returns:
        Image `(B, (H + 2 * padding - K) // strides + 1, ..., filters)`.

    Examples:
        >>> norm = NormWeights(torch.ones(4), torch.zeros(4), torch.zeros(4), torch.ones(4))
        >>> image, kernel = torch.rand(2, 8, 8, 3), torch.rand(4, 3, 3, 3)
        >>> conv_bn_relu(image, kernel, None, norm, strides=2, padding=1, training=True).shape
        torch.Size([2, 4, 4, 4])
    """
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    image_BCHW = F.conv2d(image_BCHW, kernel, None, strides, padding)
    # One format all the way (for an image of one channel torch may choose the other): where a map and its gradient
    # differ in it, the backward passes of batch norm and ReLU take up to ten times as long.
    image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
    image_BCHW = batch_norm(image_BCHW, norm, bias=bias, training=training)
    return F.relu(image_BCHW, inplace=True).permute(0, 2, 3, 1)
