"""Fully connected capsules as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import capsule_dense_factored, capsule_dense_full, capsule_dense_per_dim, list_capsules
from encapkeras.layers.initializers import as_matrices, get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, check_own_weights, register_layer, warn_of_other_axes
from encapkeras.layers.sequence_masks import without_padding


@register_layer("capsule_dense")
class CapsuleDense(CapsuleLayer):
    """Fully connected capsules ("CapFC"), followed by squash: from all input capsules i to J output capsules j.

    `per_dim`: `out[j, d] = sum_i x[i, d] W[d, i, j]`. `dense`: a dense layer with bias from all input numbers to all
    output numbers. `factored`: `out[j, e] = sum_i W2[j, i] sum_d x[i, d] W1[d, e, j]`. Capsules of a map are ordered
    by type, then row, then column.

    Args:
        capsules: Number J of output capsules; for a classifier, the number of classes.
        dim: Dimension of the output capsules; `per_dim` keeps the input's, so it must be equal.
        kind: `per_dim`, `dense` or `factored`.
        kernel_initializer: Keras initializer of the weights, by name or as {class_name, config}. If not given, uniform
            within 1 / sqrt(fan) for `per_dim` and `factored` as in the paper's code, `glorot_normal` for `dense`.
        bias_initializer: Keras initializer of the bias of `dense`.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or a list of capsules `(B, I, D)`.
        mask: True where a capsule is real, `(B, I)` of a list; the others are taken for 0.

    Returns:
        Capsules `(B, J, dim)`.

    Raises:
        ShapeError: The input is not capsules, or `per_dim` would change their dimension.

    Examples:
        >>> import torch
        >>> CapsuleDense(capsules=10, dim=16)(torch.rand(2, 4, 4, 32, 16)).shape
        torch.Size([2, 10, 16])
    """

    squashes = True
    regularizable = ("kernel", "bias")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        kind: Literal["per_dim", "dense", "factored"] = "per_dim",
        kernel_initializer: InitializerConfig | None = None,
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.dim = dim
        self.kind = kind
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        warn_of_other_axes(self, input_shape)
        inputs, input_dim = self._input_capsules(input_shape)
        self.inputs = inputs
        if self.kind == "per_dim":
            self.kernel = self._kernel("kernel", (input_dim, inputs, self.capsules), fan=inputs, inputs=1, stacked=0)
        elif self.kind == "dense":
            shape = (self.capsules * self.dim, inputs * input_dim)
            # Keras counts the fans of a matrix alike in both orders.
            initializer = self.kernel_initializer or "glorot_normal"
            self.kernel = self.add_weight(shape, initializer, name="kernel", **self.regularizing("kernel", [1]))
            self.bias = self.add_weight(shape[:1], self.bias_initializer, name="bias", **self.regularizing("bias"))
        else:
            component_fan = self.dim * self.capsules
            matrices = (input_dim, self.dim, self.capsules)
            self.component_kernel = self._kernel("component_kernel", matrices, fan=component_fan, inputs=0, stacked=2)
            self.capsule_kernel = self._kernel("capsule_kernel", (self.capsules, inputs), fan=inputs, inputs=1)

    def _kernel(self, name: str, shape: tuple[int, ...], fan: int, inputs: int, stacked: int | None = None) -> Any:
        """Add a weight; `inputs` is the axis it sums over, `stacked` the one that counts a stack of matrices."""
        bound = 1 / math.sqrt(fan)
        initializer: Any = keras.initializers.RandomUniform(-bound, bound)
        if self.kernel_initializer is not None and stacked is not None:
            initializer = as_matrices(self.kernel_initializer, name, stacked)
        elif self.kernel_initializer is not None:
            initializer = get_initializer(self.kernel_initializer, name)
        return self.add_weight(shape, initializer, name=name, **self.regularizing("kernel", [inputs]))

    def _input_capsules(self, input_shape: Shape) -> tuple[int, int]:
        sizes = [size for size in input_shape[1:] if size is not None]
        if len(input_shape) not in (3, 5) or len(sizes) < len(input_shape) - 1:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim) or (batch, capsules, dim) of known "
                f"size; received shape {tuple(input_shape)}"
            )
        if self.kind == "per_dim" and sizes[-1] != self.dim:
            raise ShapeError(
                f"{self.name}: kind per_dim keeps the dimension of its input capsules, {sizes[-1]}; dim={self.dim} "
                f"needs kind dense or factored, or dim={sizes[-1]}"
            )
        return math.prod(sizes[:-1]), sizes[-1]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, ..., D)` gives `(B, J, dim)`."""
        self._input_capsules(input_shape)
        return (input_shape[0], self.capsules, self.dim)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Outputs are all there."""

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        inputs = without_padding(self, inputs, mask)
        check_own_weights(self, math.prod(inputs.shape[1:-1]), self.inputs)
        if self.kind == "dense":
            return capsule_dense_full(inputs, self.kernel.value, self.bias.value, self.capsules)
        listed = list_capsules(inputs) if inputs.dim() == 5 else inputs
        if self.kind == "per_dim":
            return capsule_dense_per_dim(listed, self.kernel.value)
        return capsule_dense_factored(listed, self.component_kernel.value, self.capsule_kernel.value)
