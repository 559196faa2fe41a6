"""Convolution, batch norm and ReLU as one Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.functional import conv_bn_relu
from encapkeras.layers.block_weights import NORMED_CONVOLUTION, BlockBuilder, MovingAverage, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import KernelSize, PaddingOrHalf, Strides
from encapkeras.layers.registry import CapsuleLayer, Shape, convolved_size, register_layer, warn_of_other_axes
from encapkeras.layers.sequence_maps import ConvolutionSides, as_map_shape, convolution_sides, steps_mask
from encapkeras.layers.sequence_masks import OF_CHANNELS, check_no_steps, without_padding


@register_layer("conv_bn_relu")
class ConvBnRelu(CapsuleLayer):
    """`relu(batch_norm(convolution(image)))`: the stem of every EncapNet.

    The same number of zeros pads all four sides, at every stride. Batch norm: epsilon 1e-5, momentum 0.9, unbiased
    moving variance.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel, or [rows, columns]; of a sequence one number.
        strides: Stride, or [rows, columns].
        padding: Zeros on each side, or [rows, columns]; half the kernel if not given.
        use_bias: Whether the convolution has a bias.
        moving_average: Of the batch norm's statistics, for prediction: `momentum`: each batch has a share of 0.1;
            `warm`: the plain average of the first ten batches, then the same; short trainings validate far better.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}.
        bias_initializer: Keras initializer of the bias.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, `scale` and `offset`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        image: Tensor `(B, H, W, C)`, or a sequence `(B, T, C)`.
        mask: True where a step of a sequence is real, `(B, T)`; the others are 0.
        training: Whether the batch norm uses the batch's statistics.

    Returns:
        Tensor `(B, H', W', filters)` with `H' = (H + 2 * padding - kernel_size) // strides + 1`; or `(B, T', filters)`.

    Raises:
        ShapeError: The input is not an image, or smaller than the kernel.

    Examples:
        >>> import torch
        >>> ConvBnRelu(filters=16, kernel_size=3, strides=2)(torch.rand(2, 28, 28, 1)).shape
        torch.Size([2, 14, 14, 16])
        >>> ConvBnRelu(filters=16, kernel_size=5, strides=2)(torch.rand(2, 50, 3)).shape
        torch.Size([2, 25, 16])
    """

    drawn_as = "convolution"
    regularizable = NORMED_CONVOLUTION

    def __init__(
        self,
        filters: pydantic.PositiveInt,
        kernel_size: KernelSize = 3,
        *,
        strides: Strides = 1,
        padding: PaddingOrHalf = None,
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
        self.padding = padding
        self.use_bias = use_bias
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.supports_masking = True

    def _sides(self, image_shape: Shape) -> ConvolutionSides:
        flat = len(image_shape) == 3
        return convolution_sides(self.name, self.kernel_size, self.strides, self.padding, flat=flat)

    def build(self, image_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)
        builder = BlockBuilder(self, self.kernel_initializer, self.bias_initializer, moving_average=self.moving_average)
        kernel = builder.kernel("convolution", (self.filters, int(image_shape[-1] or 0), *self._sides(image_shape)[0]))
        bias = builder.bias("convolution", self.filters) if self.use_bias else None
        self._weights = Weights((kernel, bias, builder.norm("norm", self.filters)))

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H', W', filters)`, `(B, T, C)` gives `(B, T', filters)`."""
        flat = len(image_shape) == 3
        given = as_map_shape(image_shape) if flat else image_shape
        size = convolved_size(self, given, **self._sides(image_shape)._asdict())
        return (image_shape[0], *size[flat:], self.filters)

    def compute_mask(self, image: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real."""
        if len(image.shape) != 3:
            check_no_steps(self, image.shape, previous_mask, OF_CHANNELS)
            return None
        steps = self.compute_output_shape(tuple(image.shape))[1]
        return steps_mask(previous_mask, steps or 0, self._sides(image.shape))

    def call(self, image: torch.Tensor, training: bool | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        kernel, bias, norm = self._weights.tensors()
        training = bool(training and self.trainable)
        sides = self._sides(image.shape)
        options: dict[str, Any] = {"strides": sides.strides, "padding": sides.padding, "training": training}
        if image.dim() == 4:
            return conv_bn_relu(image, kernel, bias, norm, **options)
        steps = without_padding(self, image, mask)
        return conv_bn_relu(steps.unsqueeze(1), kernel, bias, norm, **options).squeeze(1)
