"""A block of capsule convolution steps as one Keras layer."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
import torch

from encapkeras.functional import BlockOptions, capsule_block
from encapkeras.functional.block_weights import Coefficients, Normalization, Skip
from encapkeras.layers.block_weights import NORMED_CONVOLUTION, BlockBuilder, MovingAverage, Steps, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import KernelSizes, as_tuple
from encapkeras.layers.registry import (
    CapsuleLayer,
    Shape,
    input_capsule_shape,
    register_layer,
    strided_capsule_shape,
    warn_of_other_axes,
)
from encapkeras.layers.sequence_maps import as_map_shape, square_kernels
from encapkeras.layers.sequence_masks import OF_CAPSULES, check_no_steps, without_padded_steps


@register_layer("capsule_convolution")
class CapsuleConvolution(CapsuleLayer):
    """Capsule convolution: convolve, add the skip, batch norm, ReLU, squash; once or several times.

    `master` convolves every capsule type by itself. `approximate` adds an ungrouped aide branch whose kernel is larger
    by 4, and weights the branches by coefficients made from them: the paper's approximate routing (Neural Network
    Encapsulation, section 3.2). Padding is half the kernel on all sides, at every stride.

    Args:
        types: Number N of capsule types.
        dim: Dimension D of the output capsules.
        kernel_size: One odd size, or several in parallel that are summed; `[5, 3, 1]` is the wide variant.
        strides: Stride of the first step; at stride 2 the map's sides halve, rounded up. A stride above 2 must
            divide them.
        kind: `master` or `approximate`.
        coefficients: Of approximate routing: `cross` weights each branch by the other's coefficients, `own` by its own.
        steps: Number of steps, at most 100.
        skip: `none`; `last`: the layer's input is added at the last step; `every`: each step's own input is added.
            Where the shape changes, the skip goes through a 3x3 convolution.
        normalization: Batch norm with one statistic per `channel` or per `capsule` type.
        relu: Whether each step applies ReLU before squash.
        sequence: Whether the input is a sequence of capsules; one of channels `(B, T, C)` is known by its axes.
        moving_average: Of the batch norms' statistics, for prediction: `momentum`: each batch has a share of 0.1;
            `warm`: the plain average of the first ten batches, then the same; short trainings validate far better.
        kernel_initializer: Keras initializer of all convolution kernels, by name or as {class_name, config}.
        bias_initializer: Keras initializer of all convolution biases.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, `scale` and `offset`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D_in)`, or an image `(B, H, W, C)` whose channels divide by `types`; or a
            sequence `(B, T, C)`, or with `sequence` `(B, T, N, D_in)`.
        mask: True where a step of a sequence is real, `(B, T)`; the others are 0.
        training: Whether batch norms use the batch's statistics.

    Returns:
        Capsules `(B, H', W', N, D)` with `H' = ceil(H / strides)`.

    Raises:
        ShapeError: The input has another number of types, is not a map, or has the mask of a sequence without being
            one.

    Examples:
        >>> import torch
        >>> layer = CapsuleConvolution(types=8, dim=4, strides=2, skip="last")
        >>> layer(torch.rand(1, 9, 9, 8, 2)).shape
        torch.Size([1, 5, 5, 8, 4])
        >>> CapsuleConvolution(types=8, dim=4, sequence=True)(torch.rand(1, 50, 8, 2)).shape
        torch.Size([1, 50, 8, 4])
    """

    squashes = True
    regularizable = NORMED_CONVOLUTION

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        kernel_size: KernelSizes = 3,
        strides: pydantic.PositiveInt = 1,
        kind: Literal["master", "approximate"] = "master",
        coefficients: Coefficients = "cross",
        steps: Steps = 1,
        skip: Skip = "none",
        normalization: Normalization = "channel",
        relu: bool = True,
        sequence: bool = False,
        moving_average: MovingAverage = "momentum",
        kernel_initializer: InitializerConfig = "glorot_normal",
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.sequence = sequence
        self.types = types
        self.dim = dim
        self.strides = strides
        self.kind = kind
        self.steps = steps
        self.kernel_sizes = as_tuple(kernel_size)
        self.relu = relu
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self._options = BlockOptions(types, strides, skip, coefficients, normalization, relu)

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        if not self._is_flat(input_shape):
            warn_of_other_axes(self, input_shape)
        self.compute_output_shape(input_shape)  # refuses what does not fit
        _, _, _, input_dim = input_capsule_shape(self, self._map_shape(input_shape), self.types)
        builder = BlockBuilder(
            self,
            self.kernel_initializer,
            self.bias_initializer,
            moving_average=self.moving_average,
            flat=self._is_flat(input_shape),
        )
        block = builder.block(
            "step",
            self.types * input_dim,
            self.types * self.dim,
            steps=self.steps,
            kernel_sizes=self.kernel_sizes,
            approximate=self.kind == "approximate",
            options=self._options,
        )
        self._weights = Weights(block)

    def _is_flat(self, shape: Shape) -> bool:
        return self.sequence or len(shape) == 3

    def _map_shape(self, shape: Shape) -> Shape:
        return as_map_shape(shape) if self._is_flat(shape) else shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, N, D_in)` gives `(B, H', W', N, D)`; a sequence gives `(B, T', N, D)`."""
        return strided_capsule_shape(self, self._map_shape(input_shape), flat=self._is_flat(input_shape))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real: every so many by the stride."""
        is_flat = self._is_flat(inputs.shape)
        if not is_flat:
            check_no_steps(self, inputs.shape, previous_mask, OF_CAPSULES)
        is_mask = is_flat and isinstance(previous_mask, torch.Tensor)
        return previous_mask[:, :: self.strides] if is_mask else None

    def _as_map(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the input as a map of capsules; padded steps of a sequence are 0."""
        if self._is_flat(inputs.shape):
            inputs = without_padded_steps(self, inputs, mask).unsqueeze(1)
        return inputs if inputs.dim() == 5 else inputs.unflatten(-1, (self.types, -1))

    def call(
        self, inputs: torch.Tensor, training: bool | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class."""
        flat, capsules = self._is_flat(inputs.shape), self._as_map(inputs, mask)
        training = bool(training and self.trainable)
        weights = self._weights.tensors()
        out = capsule_block(capsules, square_kernels(weights) if flat else weights, self._options, training=training)
        return out.squeeze(1) if flat else out
