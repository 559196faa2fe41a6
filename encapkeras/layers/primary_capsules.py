"""Primary capsules as a Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.functional import primary_capsules
from encapkeras.layers.block_weights import NORMED_CONVOLUTION, BlockBuilder, MovingAverage, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import KernelSize, Padding, Strides
from encapkeras.layers.registry import CapsuleLayer, Shape, convolved_size, register_layer, warn_of_other_axes
from encapkeras.layers.sequence_maps import ConvolutionSides, as_map_shape, convolution_sides, steps_mask
from encapkeras.layers.sequence_masks import without_padding


@register_layer("primary_capsules")
class PrimaryCapsules(CapsuleLayer):
    """The first capsules: a convolution with bias to N types of D channels, then batch norm, ReLU and squash if set.

    The defaults are the primary capsules of Sabour et al. 2017, section 4: a kernel of 9 at stride 2, no padding, and
    squash alone. Batch norm: epsilon 1e-5, momentum 0.9, unbiased moving variance.

    Args:
        types: Number N of capsule types.
        dim: Dimension D of the capsules.
        kernel_size: Height and width of the kernel, or [rows, columns]; of a sequence one number.
        strides: Stride, or [rows, columns].
        padding: Zeros on each side, or [rows, columns].
        batch_norm: Whether a batch norm follows the convolution.
        relu: Whether ReLU follows.
        squash: Whether each capsule is squashed at the end.
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
        Capsules `(B, H', W', N, D)` with `H' = (H + 2 * padding - kernel_size) // strides + 1`; or `(B, T', N, D)`.

    Raises:
        ShapeError: The input is not an image, or smaller than the kernel.

    Examples:
        >>> import torch
        >>> PrimaryCapsules(types=32, dim=8)(torch.rand(2, 20, 20, 64)).shape
        torch.Size([2, 6, 6, 32, 8])
        >>> PrimaryCapsules(types=4, dim=8)(torch.rand(2, 50, 3)).shape
        torch.Size([2, 21, 4, 8])
    """

    squashes = True
    regularizable = NORMED_CONVOLUTION

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        kernel_size: KernelSize = 9,
        *,
        strides: Strides = 2,
        padding: Padding = 0,
        batch_norm: bool = False,
        relu: bool = False,
        squash: bool = True,
        moving_average: MovingAverage = "momentum",
        kernel_initializer: InitializerConfig = "glorot_normal",
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.types = types
        self.dim = dim
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.batch_norm = batch_norm
        self.relu = relu
        self.squash = squash
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
        channels = self.types * self.dim
        shape = (channels, int(image_shape[-1] or 0), *self._sides(image_shape).kernel_size)
        convolution = (builder.kernel("convolution", shape), builder.bias("convolution", channels))
        self._weights = Weights((*convolution, builder.norm("norm", channels) if self.batch_norm else None))

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H', W', N, D)`, `(B, T, C)` gives `(B, T', N, D)`."""
        flat = len(image_shape) == 3
        given = as_map_shape(image_shape) if flat else image_shape
        size = convolved_size(self, given, **self._sides(image_shape)._asdict())
        return (image_shape[0], *size[flat:], self.types, self.dim)

    def compute_mask(self, image: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real."""
        if len(image.shape) != 3:
            return None
        steps = self.compute_output_shape(tuple(image.shape))[1]
        return steps_mask(previous_mask, steps or 0, self._sides(image.shape))

    def call(self, image: torch.Tensor, training: bool | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        if image.dim() == 4:
            return self._convolve(image, self._sides(image.shape), training)
        steps = without_padding(self, image, mask).unsqueeze(1)
        return self._convolve(steps, self._sides(image.shape), training).squeeze(1)

    def _convolve(self, image: torch.Tensor, sides: ConvolutionSides, training: bool | None) -> torch.Tensor:
        kernel, bias, norm = self._weights.tensors()
        return primary_capsules(
            image,
            kernel,
            bias,
            norm,
            types=self.types,
            strides=sides.strides,
            padding=sides.padding,
            relu=self.relu,
            squash=self.squash,
            training=bool(training and self.trainable),
        )
