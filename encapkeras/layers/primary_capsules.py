"""Primary capsules as a Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import primary_capsules
from encapkeras.functional.squash import SquashVariant
from encapkeras.layers.block_weights import NORMED_CONVOLUTION, BlockBuilder, MovingAverage, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import KernelSizeOrMap, Padding, Strides, as_sides
from encapkeras.layers.registry import CapsuleLayer, Shape, convolved_size, register_layer, warn_of_other_axes
from encapkeras.layers.sequence_maps import ConvolutionSides, as_map_shape, convolution_sides, steps_mask
from encapkeras.layers.sequence_masks import OF_CHANNELS, check_no_steps, without_padding


@register_layer("primary_capsules")
class PrimaryCapsules(CapsuleLayer):
    """The first capsules: a convolution with bias to N types of D channels, then batch norm, ReLU and squash if set.

    The defaults are the primary capsules of Sabour et al. 2017, section 4: a kernel of 9 at stride 2, no padding, and
    squash alone. Batch norm: epsilon 1e-5, momentum 0.9, unbiased moving variance. Those of Mazzia et al. 2021
    (arXiv:2101.12491) have one kernel for each channel, as large as the map: `depthwise` with `kernel_size` map and
    `squash_variant` exponential.

    Args:
        types: Number N of capsule types.
        dim: Dimension D of the capsules.
        kernel_size: Height and width of the kernel, or [rows, columns]; of a sequence one number; `map`: those of the
            input, so that there is one position.
        strides: Stride, or [rows, columns].
        padding: Zeros on each side, or [rows, columns].
        batch_norm: Whether a batch norm follows the convolution.
        relu: Whether ReLU follows.
        squash: Whether each capsule is squashed at the end.
        squash_variant: How: `paper`, `exponential` or `sigmoid`, as in the layer `squash`.
        depthwise: Whether each channel has one kernel of its own, without the other channels; there must be types * dim
            channels.
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
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not an image, smaller than the kernel, or has other channels than `depthwise` takes.

    Examples:
        >>> import torch
        >>> PrimaryCapsules(types=32, dim=8)(torch.rand(2, 20, 20, 64)).shape
        torch.Size([2, 6, 6, 32, 8])
        >>> layer = PrimaryCapsules(types=16, dim=8, kernel_size="map", depthwise=True, squash_variant="exponential")
        >>> layer(torch.rand(2, 9, 9, 128)).shape
        torch.Size([2, 1, 1, 16, 8])
        >>> PrimaryCapsules(types=4, dim=8)(torch.rand(2, 50, 3)).shape
        torch.Size([2, 21, 4, 8])
    """

    squashes = True
    regularizable = NORMED_CONVOLUTION

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        kernel_size: KernelSizeOrMap = 9,
        *,
        strides: Strides = 2,
        padding: Padding = 0,
        batch_norm: bool = False,
        relu: bool = False,
        squash: bool = True,
        squash_variant: SquashVariant = "paper",
        depthwise: bool = False,
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
        self.squash_variant = squash_variant
        self.depthwise = depthwise
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.supports_masking = True
        if kernel_size == "map" and as_sides(padding) != (0, 0):
            raise ArgumentError(
                f"{self.name}: kernel_size map is a kernel as large as the input, which has no padding; received "
                f"padding {padding}"
            )

    def _sides(self, image_shape: Shape) -> ConvolutionSides:
        flat, kernel_size = len(image_shape) == 3, self.kernel_size
        if kernel_size == "map":
            if len(image_shape) not in (3, 4) or None in image_shape[1:]:
                raise ShapeError(
                    f"{self.name}: kernel_size map is a kernel as large as the input, so it takes an image (batch, "
                    f"height, width, channels) or a sequence (batch, steps, channels) of known size; received shape "
                    f"{tuple(image_shape)}"
                )
            height, width = (int(size or 0) for size in (image_shape[-3], image_shape[-2]))
            kernel_size = width if flat else [height, width]
        return convolution_sides(self.name, kernel_size, self.strides, self.padding, flat=flat)

    def build(self, image_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)
        builder = BlockBuilder(self, self.kernel_initializer, self.bias_initializer, moving_average=self.moving_average)
        channels = self.types * self.dim
        inputs = 1 if self.depthwise else int(image_shape[-1] or 0)
        shape = (channels, inputs, *self._sides(image_shape).kernel_size)
        convolution = (builder.kernel("convolution", shape), builder.bias("convolution", channels))
        self._weights = Weights((*convolution, builder.norm("norm", channels) if self.batch_norm else None))

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H', W', N, D)`, `(B, T, C)` gives `(B, T', N, D)`."""
        flat = len(image_shape) == 3
        given = as_map_shape(image_shape) if flat else image_shape
        size = convolved_size(self, given, **self._sides(image_shape)._asdict())
        channels = self.types * self.dim
        if self.depthwise and image_shape[-1] != channels:
            raise ShapeError(
                f"{self.name}: depthwise makes one channel of each, so an image must have types * dim = {channels} "
                f"channels; received shape {tuple(image_shape)}"
            )
        return (image_shape[0], *size[flat:], self.types, self.dim)

    def compute_mask(self, image: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real."""
        if len(image.shape) != 3:
            check_no_steps(self, image.shape, previous_mask, OF_CHANNELS)
        if len(image.shape) != 3 or not isinstance(previous_mask, torch.Tensor):
            return None
        if self.kernel_size == "map":
            return previous_mask.any(1, keepdim=True)
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
        if self.kernel_size == "map" and kernel.shape[2:] != image.shape[1:3]:
            raise ShapeError(
                f"{self.name}: kernel_size map was built for a map of {tuple(kernel.shape[2:])}; received shape "
                f"{tuple(image.shape)}"
            )
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
            squash_variant=self.squash_variant,
            training=bool(training and self.trainable),
        )
