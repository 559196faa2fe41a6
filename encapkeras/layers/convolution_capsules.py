"""Capsules by a plain convolution as a Keras layer."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import convolution_capsules
from encapkeras.functional.convolution import Padding
from encapkeras.layers.initializers import in_torch_layout
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes


@register_layer("convolution_capsules")
class ConvolutionCapsules(CapsuleLayer):
    """Capsules by a plain convolution over all channels of all types, then squash (Rajasegaran et al. 2019).

    `v = |s|^2 / (1 + |s|^2) * s / sqrt(|s|^2 + epsilon)` (arXiv 1904.09546, section 3, code); no bias, no batch norm,
    no ReLU and no routing. In `capsule_convolution` each type has a convolution of its own instead.

    Squash is quadratic in short capsules, and cubic far below the root of epsilon: behind small kernels all capsules
    of a deep network are 0. If no initializer is given, that of the paper's code keeps them alive, with numbers some
    times larger than `glorot_uniform` draws.

    Args:
        types: Number J of capsule types.
        dim: Dimension E of the capsules.
        kernel_size: Height and width of the kernel.
        strides: Stride.
        padding: `same`: zeros around the map, so that its sides are divided by the stride, rounded up; where their
            number is odd, one more at the bottom and on the right. `valid`: none.
        epsilon: Under the root of the squash.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}. If not given, uniform
            within sqrt(3 / sqrt(n)), where n is how many numbers the kernel has: Glorot's with the fans of Keras 2.2,
            for which the networks of the paper were written.
        **kwargs: `kernel_regularizer`, `kernel_constraint` and `activity_regularizer`; `name`, `dtype`, `trainable`, as
            for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or an image `(B, H, W, C)`.

    Returns:
        Capsules `(B, H', W', J, E)`, shorter than 1.

    Raises:
        ShapeError: The input is neither a map of capsules nor an image, or it is smaller than the kernel.

    Examples:
        >>> import torch
        >>> ConvolutionCapsules(types=32, dim=4, strides=2)(torch.rand(2, 28, 28, 128)).shape
        torch.Size([2, 14, 14, 32, 4])
    """

    squashes = True
    drawn_as = "convolution"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel",)

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        kernel_size: pydantic.PositiveInt = 3,
        *,
        strides: pydantic.PositiveInt = 1,
        padding: Padding = "same",
        epsilon: Annotated[float, pydantic.Field(ge=0)] = 1e-7,
        kernel_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.types = types
        self.dim = dim
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.epsilon = epsilon
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(input_shape)
        warn_of_other_axes(self, input_shape)
        channels = math.prod(int(size or 0) for size in input_shape[3:])
        shape = (self.types * self.dim, channels, self.kernel_size, self.kernel_size)
        initializer = self.kernel_initializer
        if initializer is None:
            limit = math.sqrt(3) / math.prod(shape) ** 0.25
            initializer = keras.initializers.RandomUniform(-limit, limit)
        make = in_torch_layout(initializer, "kernel")
        self.kernel = self.add_weight(shape, make, name="kernel", **self.regularizing("kernel", [2, 3, 1]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives `(B, H', W', J, E)`."""
        if len(input_shape) not in (4, 5) or None in input_shape[3:]:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim), or an image (batch, height, width, "
                f"channels); received shape {tuple(input_shape)}"
            )
        sides = padded_sides(self, input_shape, self.kernel_size, self.strides, self.padding)
        return (input_shape[0], *sides, self.types, self.dim)

    def call(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return convolution_capsules(
            inputs,
            self.kernel.value,
            types=self.types,
            strides=self.strides,
            padding=self.padding,
            epsilon=self.epsilon,
        )


def padded_sides(
    layer: keras.layers.Layer, shape: Shape, kernel_size: int, strides: int, padding: Padding
) -> tuple[int | None, int | None]:
    """Return height and width after a convolution with `same` or `valid` padding; None where unknown."""
    sides: list[int | None] = []
    for size in shape[1:3]:
        if size is not None and padding == "valid" and size < kernel_size:
            raise ShapeError(f"{layer.name}: a kernel of {kernel_size} does not fit a map of shape {tuple(shape)}")
        kept = 0 if padding == "same" else kernel_size - 1
        sides.append(None if size is None else -(-(size - kept) // strides))
    return sides[0], sides[1]
