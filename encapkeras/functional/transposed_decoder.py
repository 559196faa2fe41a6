"""A decoder of transposed convolutions, from one capsule to an image, as in DeepCaps.

Shape suffixes: B batch, E capsule dimension, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.functional.batch_norm import NormWeights, batch_norm
from encapkeras.functional.torch_support.precision import full_precision

MOMENTUM = 0.2
"""Share of a batch in the moving statistics: Keras' momentum 0.8."""
EPSILON = 1e-3


class TransposedConvolution(NamedTuple):
    """Weights of one transposed convolution.

    Attributes:
        kernel: `(inputs, outputs, K, K)`.
        bias: `(outputs,)`.
    """

    kernel: torch.Tensor
    bias: torch.Tensor


class DecoderWeights(NamedTuple):
    """Weights of `transposed_decoder`.

    Attributes:
        kernel: Of the dense layer, `(E, h * w * C)`.
        bias: `(h * w * C,)`.
        norm: Of the batch norm, each `(C,)`.
        convolutions: The transposed convolutions, the last of which gives the image's channels.
    """

    kernel: torch.Tensor
    bias: torch.Tensor
    norm: NormWeights
    convolutions: Sequence[TransposedConvolution]


def transposed_decoder(
    capsules: torch.Tensor, weights: DecoderWeights, *, size: tuple[int, int], strides: Sequence[int], training: bool
) -> torch.Tensor:
    """Decode capsules: a dense layer with ReLU, batch norm, transposed convolutions without activations, then ReLU.

    The decoder of Rajasegaran et al. 2019, arXiv 1904.09546, section 3.3. It sees the numbers of one capsule, not whose
    they are, so that a component means the same for all classes. A transposed convolution multiplies both sides by its
    stride. Batch norm: epsilon 1e-3; a batch has a share of 0.2 in the moving statistics.

    Args:
        capsules: `(B, E)`.
        weights: All weights.
        size: Rows h and columns w of the map that the dense layer makes, in the order (row, column, channel).
        strides: Of each transposed convolution, at most as large as its kernel.
        training: Whether the batch norm uses and records the batch's statistics.

    Returns:
        Images `(B, h * (product of strides), w * ..., C)`, at least 0.

    Examples:
        >>> norm = NormWeights(torch.ones(4), torch.zeros(4), torch.zeros(4), torch.ones(4))
        >>> last = TransposedConvolution(torch.rand(4, 1, 3, 3), torch.zeros(1))
        >>> weights = DecoderWeights(torch.rand(16, 196), torch.zeros(196), norm, [last])
        >>> transposed_decoder(torch.rand(2, 16), weights, size=(7, 7), strides=[2], training=False).shape
        torch.Size([2, 14, 14, 1])
    """
    with full_precision(capsules) as wide:
        dense = torch.addmm(wide(weights.bias), wide(capsules), wide(weights.kernel)).relu()
        map_BCHW = dense.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
        map_BCHW = batch_norm(map_BCHW, weights.norm, training=training, momentum=MOMENTUM, epsilon=EPSILON)
        for (kernel, bias), stride in zip(weights.convolutions, strides, strict=True):
            map_BCHW = _transposed(map_BCHW, wide(kernel), wide(bias), stride)
        return map_BCHW.permute(0, 2, 3, 1).relu().to(capsules.dtype)


def _transposed(map_BCHW: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, stride: int) -> torch.Tensor:
    """The whole transposed convolution, of which the sides beyond `stride` times those of the map are cut off.

    As TensorFlow cuts: half in front, rounded down, and the rest behind.
    """
    out_BCHW = F.conv_transpose2d(map_BCHW, kernel, bias, stride)
    starts = [(side - stride) // 2 for side in kernel.shape[2:]]
    rows, columns = (
        slice(start, start + stride * side) for start, side in zip(starts, map_BCHW.shape[2:], strict=True)
    )
    return out_BCHW[:, :, rows, columns]
