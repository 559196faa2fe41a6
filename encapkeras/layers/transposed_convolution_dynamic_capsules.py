"""A larger map of capsules by dynamic routing, whose votes are a transposed convolution, as a Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional import transposed_convolution_dynamic_routing
from encapkeras.layers.convolution_dynamic_capsules import RoutedByTypes
from encapkeras.layers.initializers import in_torch_layout
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import Shape, register_layer, warn_of_other_axes
from encapkeras.layers.routing_inputs import Control


@register_layer("transposed_convolution_dynamic_capsules")
class TransposedConvolutionDynamicCapsules(RoutedByTypes):
    """A larger map of capsules by dynamic routing: one transposed convolution votes for all child types (SegCaps).

    The votes `v_nj(q)` of type n at position q of the larger map are the transposed convolution of its components.
    Logits start at 0; each iteration takes `c = softmax(logits)` over the parent types of a position, `s_j(q) = sum_n
    c_nj(q) v_nj(q) + bias_j` and `a_j(q) = squash(s_j(q))`, and adds `v_nj(q) . a_j(q)` to the logits (LaLonde and
    Bagci 2018, arXiv:1804.04241, section 2, and its code). Gradients flow through all iterations; votes,
    unless they are few, are made of some samples at a time.

    The other layer of SegCaps, which keeps or shrinks the map, is `convolution_dynamic_capsules` with `normalize_over:
    parents` and `squash_over: capsule`.

    Args:
        types: Number J of types of the parents.
        dim: Dimension E of the parents.
        kernel_size: Height and width of the kernel, at least `strides`.
        strides: By which height and width of the map are multiplied.
        iterations: Number of iterations.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are equal; `random`: they are
            drawn once for each pair of types, the same in every model.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}; fans are those of a
            Keras `Conv2DTranspose` of one type, as in the paper's code.
        bias_initializer: Keras initializer of the parents' biases; if not given, the constant 0.1.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Capsules `(B, H, W, N, D)`.

    Returns:
        Capsules `(B, strides * H, strides * W, J, E)`, shorter than 1.

    Raises:
        ArgumentError: `strides` is larger than `kernel_size`.
        ShapeError: The input is not a map of capsules.

    Examples:
        >>> import torch
        >>> TransposedConvolutionDynamicCapsules(types=4, dim=8)(torch.rand(2, 8, 8, 6, 16)).shape
        torch.Size([2, 16, 16, 4, 8])
    """

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        kernel_size: pydantic.PositiveInt = 4,
        *,
        strides: pydantic.PositiveInt = 2,
        iterations: pydantic.PositiveInt = 3,
        routing: Control | None = None,
        kernel_initializer: InitializerConfig = "he_normal",
        bias_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.types = types
        self.dim = dim
        self.kernel_size = kernel_size
        self.strides = strides
        self.iterations = iterations
        self.routing = routing
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        if strides > kernel_size:
            raise ArgumentError(
                f"{self.name}: strides must be at most kernel_size, or there would be rows without votes; received "
                f"strides={strides} and kernel_size={kernel_size}"
            )

    def build(self, capsules_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(capsules_shape)
        warn_of_other_axes(self, capsules_shape)
        types, dim = (int(size or 0) for size in capsules_shape[3:])
        shape = (dim, self.types * self.dim, self.kernel_size, self.kernel_size)
        make = in_torch_layout(self.kernel_initializer, "kernel")  # Keras' kernels are (height, width, out, in) here
        self.kernel = self.add_weight(shape, make, name="kernel", **self.regularizing("kernel", [2, 3, 0]))
        self._add_bias_and_coefficients(types)

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives `(B, strides * H, strides * W, J, E)`."""
        self._check_map(capsules_shape)
        sides = (None if size is None else self.strides * size for size in capsules_shape[1:3])
        return (capsules_shape[0], *sides, self.types, self.dim)

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return transposed_convolution_dynamic_routing(
            capsules,
            self.kernel.value,
            self.bias.value,
            strides=self.strides,
            iterations=self.iterations,
            coefficients=self._fixed(capsules.shape[3]),
        )
