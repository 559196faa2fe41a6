"""Capsules by a plain convolution as a Keras layer."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import convolution_capsules
from encapkeras.functional.convolution import Padding, padding_of
from encapkeras.layers.initializers import in_torch_layout
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, Sides, register_layer, warn_of_other_axes
from encapkeras.layers.sequence_maps import ConvolutionSides, as_map_shape, steps_mask
from encapkeras.layers.sequence_masks import OF_CAPSULES, check_no_steps, without_padded_steps


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
        kernel_size: Height and width of the kernel; of a sequence, its steps.
        strides: Stride.
        padding: `same`: zeros around the map, so that its sides are divided by the stride, rounded up; where their
            number is odd, one more at the bottom and on the right. `valid`: none.
        sequence: Whether the input is a sequence of capsules; one of channels `(B, T, C)` is known by its axes.
        epsilon: Under the root of the squash.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}. If not given, uniform
            within sqrt(3 / sqrt(n)), where n is how many numbers the kernel has: Glorot's with the fans of Keras 2.2,
            for which the networks of the paper were written.
        **kwargs: `kernel_regularizer`, `kernel_constraint` and `activity_regularizer`; `name`, `dtype`, `trainable`, as
            for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or an image `(B, H, W, C)`; or a sequence `(B, T, C)`, or with `sequence`
            `(B, T, N, D)`.
        mask: True where a step of a sequence is real, `(B, T)`; the others are 0.

    Returns:
        Capsules `(B, H', W', J, E)`, or `(B, T', J, E)` of a sequence, shorter than 1.

    Raises:
        ShapeError: The input is neither capsules nor an image, or smaller than the kernel; or an image has the mask of
            a sequence.

    Examples:
        >>> import torch
        >>> ConvolutionCapsules(types=32, dim=4, strides=2)(torch.rand(2, 28, 28, 128)).shape
        torch.Size([2, 14, 14, 32, 4])
        >>> ConvolutionCapsules(types=8, dim=4, strides=2, sequence=True)(torch.rand(2, 50, 8, 2)).shape
        torch.Size([2, 25, 8, 4])
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
        sequence: bool = False,
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
        self.sequence = sequence
        self.supports_masking = True
        self.epsilon = epsilon
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(input_shape)
        flat = self._is_flat(input_shape)
        if not flat:
            warn_of_other_axes(self, input_shape)
        channels = math.prod(int(size or 0) for size in input_shape[2 if flat else 3 :])
        shape = (self.types * self.dim, channels, *self._kernel_sides(flat))
        initializer = self.kernel_initializer
        if initializer is None:
            limit = math.sqrt(3) / math.prod(shape) ** 0.25
            initializer = keras.initializers.RandomUniform(-limit, limit)
        make = in_torch_layout(initializer, "kernel")
        self.kernel = self.add_weight(shape, make, name="kernel", **self.regularizing("kernel", [2, 3, 1]))

    def _is_flat(self, shape: Shape) -> bool:
        return self.sequence or len(shape) == 3

    def _kernel_sides(self, flat: bool) -> tuple[int, int]:
        return (1 if flat else self.kernel_size, self.kernel_size)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives `(B, H', W', J, E)`; a sequence gives `(B, T', J, E)`."""
        flat = self._is_flat(input_shape)
        shape = as_map_shape(input_shape) if flat else input_shape
        if len(shape) not in (4, 5) or None in shape[3:]:
            takes = "capsules (batch, height, width, types, dim), an image (batch, height, width, channels)"
            if self.sequence:
                takes = "with 'sequence' capsules (batch, steps, types, dim)"
            raise ShapeError(
                f"{self.name} takes {takes}, or a sequence (batch, steps, channels); received shape "
                f"{tuple(input_shape)}"
            )
        sides = padded_sides(self, shape, self._kernel_sides(flat), self.strides, self.padding)
        return (shape[0], *sides[flat:], self.types, self.dim)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real."""
        shape = tuple(inputs.shape)
        if not self._is_flat(shape):
            check_no_steps(self, shape, previous_mask, OF_CAPSULES)
        if not isinstance(previous_mask, torch.Tensor):
            return None
        kernel, steps = self._kernel_sides(True), self.compute_output_shape(shape)[1]
        left, *_ = padding_of((1, shape[1]), kernel, self.strides, self.padding)
        return steps_mask(previous_mask, steps or 0, ConvolutionSides(kernel, (1, self.strides), (0, left)))

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        flat = self._is_flat(tuple(inputs.shape))
        out = convolution_capsules(
            without_padded_steps(self, inputs, mask).unsqueeze(1) if flat else inputs,
            self.kernel.value,
            types=self.types,
            strides=self.strides,
            padding=self.padding,
            epsilon=self.epsilon,
        )
        return out.squeeze(1) if flat else out


def padded_sides(
    layer: keras.layers.Layer, shape: Shape, kernel_size: Sides, strides: int, padding: Padding
) -> tuple[int | None, int | None]:
    """Return height and width after a convolution with `same` or `valid` padding; None where unknown."""
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    sides: list[int | None] = []
    for size, side in zip(shape[1:3], kernel, strict=True):
        if size is not None and padding == "valid" and size < side:
            named = " x ".join(map(str, dict.fromkeys(kernel)))
            raise ShapeError(f"{layer.name}: a kernel of {named} does not fit a map of shape {tuple(shape)}")
        kept = 0 if padding == "same" else side - 1
        sides.append(None if size is None else -(-(size - kept) // strides))
    return sides[0], sides[1]
