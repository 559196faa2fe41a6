"""The decoder of Efficient-CapsNet for smallNORB: a dense layer, then convolutions on maps of growing size.

Shape suffixes: B batch, F features, S rows times columns of the first map, C channels, H W map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError

LEAKY_SLOPE = 0.2
FILTERS = (64, 128, 128)
"""Of the convolutions before the last, each on a map of twice the size."""


def bilinear_decoder(
    features_BF: torch.Tensor,
    dense: tuple[torch.Tensor, torch.Tensor],
    convolutions: Sequence[tuple[torch.Tensor, torch.Tensor]],
    size: tuple[int, int],
) -> torch.Tensor:
    """Make images `(B, H, W, C)` from features (the code of Mazzia et al. 2021, arXiv:2101.12491).

    A dense layer makes the first map, of one channel. Three times the map is doubled in size by bilinear interpolation
    between the centers of pixels, then convolved, with a leaky ReLU of slope 0.2; a last convolution ends in a sigmoid.
    Kernels are 3x3, without padding.

    Args:
        features_BF: `(B, F)`.
        dense: Kernel `(F, S)` and bias `(S,)`.
        convolutions: Kernels `(C_out, C_in, 3, 3)` and biases `(C_out,)`.
        size: Rows and columns of the first map, whose product is S: see `first_map`.

    Examples:
        >>> dense = torch.randn(80, 64), torch.zeros(64)
        >>> channels = [(1, 64), (64, 128), (128, 128), (128, 2)]
        >>> convolutions = [(torch.randn(to, of, 3, 3), torch.zeros(to)) for of, to in channels]
        >>> bilinear_decoder(torch.randn(5, 80), dense, convolutions, first_map(48, 48)).shape
        torch.Size([5, 48, 48, 2])
    """
    kernel_FS, bias_S = dense
    map_BCHW = torch.addmm(bias_S, features_BF, kernel_FS).unflatten(1, (1, *size))
    *hidden, (kernel, bias) = convolutions
    for hidden_kernel, hidden_bias in hidden:
        map_BCHW = F.interpolate(map_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
        map_BCHW = F.leaky_relu(F.conv2d(map_BCHW, hidden_kernel, hidden_bias), LEAKY_SLOPE)
    return F.conv2d(map_BCHW, kernel, bias).sigmoid().permute(0, 2, 3, 1)


def first_map(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the first map for images of this size; 8 and 8 for 48 and 48.

    Args:
        height: Rows of the images.
        width: Columns of the images.

    Raises:
        ShapeError: No map leads to this size.

    Examples:
        >>> first_map(48, 32)
        (8, 6)
    """
    doublings = len(FILTERS)
    factor = 2**doublings
    lost = 2 * factor  # convolutions take 2 rows each, which later doublings double: 8 + 4 + 2 + 2
    if height % factor or width % factor:
        raise ShapeError(
            f"the bilinear decoder makes images whose rows and columns are multiples of {factor}; received {height} x "
            f"{width}"
        )
    return (height + lost) // factor, (width + lost) // factor
