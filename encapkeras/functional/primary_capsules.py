"""Primary capsules: a convolution whose channels are taken as capsules.

Shape suffixes: B batch, H height, W width, C channels, N capsule types, D capsule dimension.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError
from encapkeras.functional.batch_norm import NormWeights, batch_norm
from encapkeras.functional.squash import SquashVariant
from encapkeras.functional.squash import squash as squashed


def primary_capsules(
    image_BHWC: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor,
    norm: NormWeights | None,
    *,
    types: int,
    strides: int | tuple[int, int],
    padding: int | tuple[int, int],
    relu: bool,
    squash: bool,
    training: bool,
    squash_variant: SquashVariant = "paper",
) -> torch.Tensor:
    """`squash(relu(batch_norm(convolution(image) + bias)))`, each of the three as chosen.

    A kernel `(C, 1, K, K)` is a depthwise convolution, one kernel for each channel: the primary capsules of Mazzia et
    al. 2021 (arXiv:2101.12491), where it is as large as the map.

    Args:
        image_BHWC: Image `(B, H, W, C)`.
        kernel: `(N * D, C, K, K)`, type by type; or `(C, 1, K, K)` with `C = N * D`.
        bias: `(N * D,)`.
        norm: Weights of the batch norm, each `(N * D,)`; None for no batch norm.
        types: Number N of capsule types.
        strides: Stride; one number, or rows and columns.
        padding: Zeros on each side; one number, or rows and columns.
        relu: Whether ReLU is applied.
        squash: Whether each capsule is squashed.
        training: Whether the batch norm uses and records the batch's statistics.
        squash_variant: How: `paper`, `exponential` or `sigmoid`; see `squash`.

    Returns:
        Capsules `(B, (H + 2 * padding - K) // strides + 1, ..., N, D)`.

    Examples:
        >>> image, kernel, bias = torch.rand(2, 20, 20, 3), torch.rand(32, 3, 9, 9), torch.rand(32)
        >>> options = dict(types=4, strides=2, padding=0, relu=False, squash=True, training=False)
        >>> primary_capsules(image, kernel, bias, None, **options).shape
        torch.Size([2, 6, 6, 4, 8])
        >>> image, kernel = torch.rand(2, 9, 9, 32), torch.rand(32, 1, 9, 9)
        >>> primary_capsules(image, kernel, bias, None, **options, squash_variant="exponential").shape
        torch.Size([2, 1, 1, 4, 8])
    """
    channels = image_BHWC.shape[3]
    groups = channels if kernel.shape[1] == 1 and len(kernel) == channels else 1
    if kernel.shape[1] * groups != channels:
        raise ShapeError(
            f"a kernel {tuple(kernel.shape)} takes {kernel.shape[1]} channels, or {len(kernel)} if it is depthwise; "
            f"received an image of shape {tuple(image_BHWC.shape)}"
        )
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    if norm is None:
        image_BCHW = F.conv2d(image_BCHW, kernel, bias, strides, padding, groups=groups)
    else:
        image_BCHW = F.conv2d(image_BCHW, kernel, None, strides, padding, groups=groups)
        image_BCHW = batch_norm(image_BCHW.contiguous(), norm, bias=bias, training=training)
    if relu:
        image_BCHW = F.relu(image_BCHW)
    capsules_BHWND = image_BCHW.permute(0, 2, 3, 1).unflatten(-1, (types, -1))
    return squashed(capsules_BHWND, variant=squash_variant) if squash else capsules_BHWND
