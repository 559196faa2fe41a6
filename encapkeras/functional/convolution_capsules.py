"""Capsules by a plain convolution over all channels, as in DeepCaps.

Shape suffixes: B batch, H height, W width, N capsule types, D capsule dimension, C = N * D channels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from encapkeras.functional.convolution import Padding, padding_of
from encapkeras.functional.squash import squash


def convolution_capsules(
    inputs: torch.Tensor,
    kernel: torch.Tensor,
    *,
    types: int,
    strides: int = 1,
    padding: Padding = "same",
    epsilon: float = 1e-7,
) -> torch.Tensor:
    """Convolve all channels of all types at once, and squash: no routing, no batch norm, no ReLU, no bias.

    `v = |s|^2 / (1 + |s|^2) * s / sqrt(|s|^2 + epsilon)`, s the components of a type in the convolution (Rajasegaran et
    al. 2019, arXiv 1904.09546, section 3, code).

    Args:
        inputs: Capsules `(B, H, W, N, D)`, or an image `(B, H, W, C)`.
        kernel: `(J * E, C, K, K)`: outputs and inputs type by type.
        types: Number J of the types of the outputs.
        strides: Stride.
        padding: `same`: zeros around the map, so that its sides are divided by the stride, rounded up; where their
            number is odd, one more at the bottom and on the right. `valid`: none.
        epsilon: Under the root of the squash.

    Returns:
        Capsules `(B, H', W', J, E)`.

    Examples:
        >>> capsules, kernel = torch.rand(2, 8, 8, 4, 3), torch.rand(40, 12, 3, 3)
        >>> convolution_capsules(capsules, kernel, types=5, strides=2).shape
        torch.Size([2, 4, 4, 5, 8])
    """
    image_BHWC = inputs.flatten(3) if inputs.dim() == 5 else inputs
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    size, sides = (image_BHWC.shape[1], image_BHWC.shape[2]), (kernel.shape[2], kernel.shape[3])
    left, right, top, bottom = padding_of(size, sides, strides, padding)
    if (left, top) == (right, bottom):  # zeros that no one has to write
        image_BCHW = F.conv2d(image_BCHW, kernel, None, strides, (top, left))
    else:
        image_BCHW = F.conv2d(F.pad(image_BCHW, (left, right, top, bottom)), kernel, None, strides)
    image_BHWC = image_BCHW.permute(0, 2, 3, 1)
    return squash(image_BHWC.unflatten(-1, (types, -1)), epsilon=epsilon)
