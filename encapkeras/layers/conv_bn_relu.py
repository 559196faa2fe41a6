"""Convolution, batch norm and ReLU as one Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.functional import conv_bn_relu
from encapkeras.layers.block_weights import NORMED_CONVOLUTION, BlockBuilder, MovingAverage, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, convolved_size, register_layer, warn_of_other_axes


@register_layer("conv_bn_relu")
class ConvBnRelu(CapsuleLayer):
    """`relu(batch_norm(convolution(image)))`: the stem of every EncapNet.

    The same number of zeros pads all four sides, at every stride. Batch norm: epsilon 1e-5, momentum 0.9, unbiased
    moving variance.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        strides: Stride.
        padding: Zeros on each side; half the kernel if not given.
        use_bias: Whether the convolution has a bias.
        moving_average: Of the batch norm's statistics, for prediction: `momentum`: each batch has a share of 0.1;
            `warm`: the plain average of the first ten batches, then the same; short trainings validate far better.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}.
        bias_initializer: Keras initializer of the bias.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, `scale` and `offset`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        image: Tensor `(B, H, W, C)`.
        training: Whether the batch norm uses the batch's statistics.

    Returns:
        Tensor `(B, H', W', filters)` with `H' = (H + 2 * padding - kernel_size) // strides + 1`.

    Raises:
        ShapeError: The input is not an image, or smaller than the kernel.

    Examples:
        >>> import torch
        >>> ConvBnRelu(filters=16, kernel_size=3, strides=2)(torch.rand(2, 28, 28, 1)).shape
        torch.Size([2, 14, 14, 16])
    """

    drawn_as = "convolution"
    regularizable = NORMED_CONVOLUTION

    def __init__(
        self,
        filters: pydantic.PositiveInt,
        kernel_size: pydantic.PositiveInt = 3,
        *,
        strides: pydantic.PositiveInt = 1,
        padding: pydantic.NonNegativeInt | None = None,
        use_bias: bool = True,
        moving_average: MovingAverage = "momentum",
        kernel_initializer: InitializerConfig = "glorot_normal",
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = kernel_size // 2 if padding is None else padding
        self.use_bias = use_bias
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer

    def build(self, image_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)
        builder = BlockBuilder(self, self.kernel_initializer, self.bias_initializer, moving_average=self.moving_average)
        kernel = builder.kernel("convolution", (self.filters, int(image_shape[3] or 0), *[self.kernel_size] * 2))
        bias = builder.bias("convolution", self.filters) if self.use_bias else None
        self._weights = Weights((kernel, bias, builder.norm("norm", self.filters)))

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H', W', filters)`."""
        height, width = convolved_size(
            self, image_shape, kernel_size=self.kernel_size, strides=self.strides, padding=self.padding
        )
        return (image_shape[0], height, width, self.filters)

    def call(self, image: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        """See the class."""
        kernel, bias, norm = self._weights.tensors()
        training = bool(training and self.trainable)
        return conv_bn_relu(image, kernel, bias, norm, strides=self.strides, padding=self.padding, training=training)
