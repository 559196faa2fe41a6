"""A stage of an EncapNet as one Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.functional import BlockOptions, capsule_stage
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


@register_layer("capsule_stage")
class CapsuleStage(CapsuleLayer):
    """Two capsule convolution blocks: `main` raises the capsules' dimension, `sub` refines them at that dimension.

    `main` is one step with 3x3 (or wide) kernels and the stride, `sub` is `sub_layers` steps with 1x1 kernels. Each
    step convolves, adds the skip, then applies batch norm, ReLU and squash (Neural Network Encapsulation, section 3).

    Args:
        types: Number N of capsule types.
        dim: Dimension D of the output capsules.
        strides: Stride of the main block; at stride 2 the map's sides halve, rounded up. A stride above 2 must
            divide them.
        kind: `master`: each type is convolved by itself; `approximate`: an ungrouped aide branch is added (the
            paper's approximate routing).
        coefficients: Of approximate routing: `cross` weights each branch by the other's coefficients, `own` by its own.
        sub_layers: Number of steps in the sub block, at most 100.
        skip: `none`; `last`: each block's input is added at its last step; `every`: each step's own input is added.
        kernel_size: Of the main block: one odd size, or several in parallel; `[5, 3, 1]` is the wide variant.
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
        return_ports: Whether to return all ports: `input`, `main` (the main block's output), `half` (after half of the
            sub block's steps; for an odd number, the middle step after ReLU, before squash) and `out`.

    Returns:
        Capsules `(B, H', W', N, D)` with `H' = ceil(H / strides)`, or a map of the ports' tensors.

    Raises:
        ShapeError: The input has another number of types, is not a map, or has the mask of a sequence without being
            one.

    Examples:
        >>> import torch
        >>> stage = CapsuleStage(types=8, dim=4, kind="approximate")
        >>> stage(torch.rand(2, 16, 16, 8, 2)).shape
        torch.Size([2, 8, 8, 8, 4])
        >>> CapsuleStage(types=8, dim=4, sequence=True)(torch.rand(2, 50, 8, 2)).shape
        torch.Size([2, 25, 8, 4])
    """

    squashes = True
    regularizable = NORMED_CONVOLUTION
    ports: ClassVar[tuple[str, ...]] = ("input", "main", "half", "out")

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        strides: pydantic.PositiveInt = 2,
        kind: Literal["master", "approximate"] = "master",
        coefficients: Coefficients = "cross",
        sub_layers: Steps = 2,
        skip: Skip = "last",
        kernel_size: KernelSizes = 3,
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
        self.sub_layers = sub_layers
        self.kernel_sizes = as_tuple(kernel_size)
        self.relu = relu
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self._main_options = BlockOptions(types, strides, skip, coefficients, normalization, relu)
        self._sub_options = self._main_options._replace(strides=1)

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        if not self._is_flat(input_shape):
            warn_of_other_axes(self, input_shape)
        self.compute_output_shape(input_shape)  # refuses what does not fit
        _, _, _, input_dim = input_capsule_shape(self, self._map_shape(input_shape), self.types)
        channels = self.types * self.dim
        builder = BlockBuilder(
            self,
            self.kernel_initializer,
            self.bias_initializer,
            moving_average=self.moving_average,
            flat=self._is_flat(input_shape),
        )
        approximate = self.kind == "approximate"
        main = builder.block(
            "main",
            self.types * input_dim,
            channels,
            steps=1,
            kernel_sizes=self.kernel_sizes,
            approximate=approximate,
            options=self._main_options,
        )
        sub = builder.block(
            "sub",
            channels,
            channels,
            steps=self.sub_layers,
            kernel_sizes=(1,),
            approximate=approximate,
            options=self._sub_options,
        )
        self._weights = Weights((main, sub))

    def _is_flat(self, shape: Shape) -> bool:
        return self.sequence or len(shape) == 3

    def _map_shape(self, shape: Shape) -> Shape:
        return as_map_shape(shape) if self._is_flat(shape) else shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, N, D_in)` gives `(B, H', W', N, D)`; a sequence gives `(B, T', N, D)`."""
        return strided_capsule_shape(self, self._map_shape(input_shape), flat=self._is_flat(input_shape))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which steps of a sequence are real, for each port: every so many by the stride."""
        is_flat = self._is_flat(inputs.shape)
        if not is_flat:
            check_no_steps(self, inputs.shape, previous_mask, OF_CAPSULES)
        is_mask = is_flat and isinstance(previous_mask, torch.Tensor)
        return [previous_mask[:, :: self.strides]] * len(self.ports) if is_mask else None

    def _as_map(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the input as a map of capsules; padded steps of a sequence are 0."""
        if self._is_flat(inputs.shape):
            inputs = without_padded_steps(self, inputs, mask).unsqueeze(1)
        return inputs if inputs.dim() == 5 else inputs.unflatten(-1, (self.types, -1))

    def compute_output_spec(
        self, inputs: keras.KerasTensor, training: bool | None = None, return_ports: bool = False, mask: Any = None
    ) -> Any:
        """Return symbolic outputs: one, or a map of all ports."""
        out = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        if not return_ports:
            return out
        ports = {port: keras.KerasTensor(out.shape, dtype=out.dtype) for port in ("main", "half", "out")}
        return {"input": keras.KerasTensor(inputs.shape, dtype=self.compute_dtype), **ports}

    def call(
        self,
        inputs: torch.Tensor,
        training: bool | None = None,
        return_ports: bool = False,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor | None]:
        """See the class."""
        flat, capsules = self._is_flat(inputs.shape), self._as_map(inputs, mask)
        main, sub = square_kernels(self._weights.tensors()) if flat else self._weights.tensors()
        training = bool(training and self.trainable)
        outputs = capsule_stage(
            capsules, main, sub, self._main_options, self._sub_options, training=training, half=return_ports
        )
        ports = {"main": outputs.main, "half": outputs.half, "out": outputs.out}
        if flat:
            ports = {name: port if port is None else port.squeeze(1) for name, port in ports.items()}
        if return_ports:
            return {"input": inputs, **ports}
        return outputs.out.squeeze(1) if flat else outputs.out
