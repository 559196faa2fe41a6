"""Homogeneous vector capsules as a Keras layer."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import homogeneous_vector_capsules
from encapkeras.layers.block_weights import BlockBuilder, MovingAverage, Weights, norm_weights
from encapkeras.layers.initializers import as_matrices
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes


@register_layer("homogeneous_vector_capsules")
class HomogeneousVectorCapsules(CapsuleLayer):
    """Homogeneous vector capsules (Byerly et al. 2020, arXiv:2001.09136): capsules of a map to classes, no routing.

    `s_j[d] = sum_i W_ji[d] x_i[d]`, then batch norm and ReLU: one weight for each component, where other capsules have
    a matrix. A component has one mean, one variance and one offset, which all output capsules share. The lengths of
    the outputs, by `capsule_length`, are the logits of a cross-entropy loss; `merge_branches` merges those of several
    layers.

    Args:
        capsules: Number J of output capsules; for a classifier, the number of classes.
        capsules_of: What is an input capsule: each `position` of the map, of C numbers, as in the paper's networks; or
            each `filter`, of H * W numbers.
        momentum: Fraction of the moving statistics that each batch keeps. That of the paper's code is for hundreds of
            epochs; short trainings need a smaller one, such as 0.9.
        epsilon: Added to the variance.
        moving_average: Of the statistics, for prediction: `momentum`: each batch has a share of 1 - momentum; `warm`:
            the plain average of the first batches, until their number is 1 / (1 - momentum), then the same.
        kernel_initializer: Keras initializer of the weights, by name or as {class_name, config}; fans are those of a
            matrix for each component. If not given, normal with deviation 0.05, as in the paper's code.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `offset`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A map `(B, H, W, C)`, or a list of its positions `(B, P, C)`, of known size.
        training: Whether to use the batch's statistics, and to record them.

    Returns:
        Capsules `(B, J, D)` with no component below 0; D = C of positions, D = H * W of filters.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not a map, or its size is not known.

    Examples:
        >>> import torch
        >>> HomogeneousVectorCapsules(10)(torch.rand(2, 5, 5, 64)).shape
        torch.Size([2, 10, 64])
        >>> HomogeneousVectorCapsules(10, capsules_of="filter")(torch.rand(2, 5, 5, 64)).shape
        torch.Size([2, 10, 25])
    """

    drawn_as = "capsules"
    regularizable = ("kernel", "offset")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        *,
        capsules_of: Literal["position", "filter"] = "position",
        momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.9997,
        epsilon: pydantic.PositiveFloat = 1e-3,
        moving_average: MovingAverage = "momentum",
        kernel_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.capsules_of = capsules_of
        self.momentum = momentum
        self.epsilon = epsilon
        self.moving_average = moving_average
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        warn_of_other_axes(self, input_shape)
        inputs, dim = self._input_capsules(input_shape)
        initializer: Any = keras.initializers.RandomNormal(stddev=0.05)
        if self.kernel_initializer is not None:
            initializer = as_matrices(self.kernel_initializer, "kernel", 0)
        shape = (dim, inputs, self.capsules)
        self.kernel = self.add_weight(shape, initializer, name="kernel", **self.regularizing("kernel", [1]))
        builder = BlockBuilder(self, moving_average=self.moving_average)
        self._norm = Weights(builder.norm("norm", dim, scale=False))

    def _input_capsules(self, input_shape: Shape) -> tuple[int, int]:
        """Return number and dimension of the input capsules."""
        sizes = [size for size in input_shape[1:] if size is not None]
        if len(input_shape) not in (3, 4) or len(sizes) < len(input_shape) - 1:
            raise ShapeError(
                f"{self.name} takes a map (batch, height, width, channels), or a list of its positions (batch, "
                f"positions, channels), of known size; received shape {tuple(input_shape)}"
            )
        positions, channels = math.prod(sizes[:-1]), sizes[-1]
        found = (positions, channels) if self.capsules_of == "position" else (channels, positions)
        if self.built and found != (self.kernel.shape[1], self.kernel.shape[0]):
            built = "{1} positions of {0}" if self.capsules_of == "position" else "{0} positions of {1}"
            raise ShapeError(
                f"{self.name} was built for {built.format(*self.kernel.shape)} channels, each with own weights; "
                f"received shape {tuple(input_shape)}. Resize or crop images to one size"
            )
        return found

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, J, D)`."""
        _, dim = self._input_capsules(input_shape)
        return (input_shape[0], self.capsules, dim)

    def call(self, inputs: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        """See the class."""
        self._input_capsules(tuple(inputs.shape))
        return homogeneous_vector_capsules(
            inputs,
            self.kernel.value,
            norm_weights(self._norm.tensors()),
            training=bool(training and self.trainable),
            capsules_of=self.capsules_of,
            momentum=1 - self.momentum,
            epsilon=self.epsilon,
        )
