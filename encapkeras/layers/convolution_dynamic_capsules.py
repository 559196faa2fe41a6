"""Capsules by dynamic routing of maps whose votes are a convolution, as a Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import convolution_dynamic_routing
from encapkeras.functional.convolution import Padding
from encapkeras.functional.routing.convolution_dynamic_routing import Layout, NormalizeOver, SquashOver
from encapkeras.layers.convolution_capsules import padded_sides
from encapkeras.layers.initializers import get_initializer, in_torch_layout, random_shares
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import WindowRecord


class RoutedByTypes(CapsuleLayer):
    """Base of layers whose parents at each position of a map get one vote of every child type."""

    types: int
    dim: int
    routing: Control | None
    bias_initializer: InitializerConfig | None
    squashes = True
    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "bias")

    def votes_shape(self, capsules_shape: Shape) -> Shape:
        """Return the shape of all votes, never made all at once, unless they are few: `(B, H', W', N, J, E)`."""
        batch, *sides, types, dim = self.compute_output_shape(capsules_shape)
        return (batch, *sides, capsules_shape[3], types, dim)

    def _check_map(self, capsules_shape: Shape) -> None:
        if len(capsules_shape) != 5 or None in capsules_shape[3:]:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim); received shape {tuple(capsules_shape)}"
            )

    def _add_bias_and_coefficients(self, types: int) -> None:
        given = self.bias_initializer
        initializer = keras.initializers.Constant(0.1) if given is None else get_initializer(given, "bias")
        sizes = (self.types, self.dim)
        self.bias = self.add_weight(sizes, initializer, name="bias", **self.regularizing("bias", []))
        self.coefficients = None
        if self.routing == "random":
            sizes = (types, self.types)
            self.coefficients = self.add_weight(sizes, random_shares, name="coefficients", trainable=False)

    def _fixed(self, types: int) -> torch.Tensor | None:
        if self.coefficients is not None:
            fixed: torch.Tensor = self.coefficients.value
            return fixed
        if self.routing == "uniform":
            return torch.full_like(self.bias.value[:, 0], 1 / self.types).expand(types, -1)
        return None


@register_layer("convolution_dynamic_capsules")
class ConvolutionDynamicCapsules(RoutedByTypes):
    """A map of capsules by dynamic routing, where one convolution votes for all child types (Rajasegaran et al. 2019).

    The votes `v_nj(p)` of type n at position p are the convolution of its components. Logits start at 0; each iteration
    takes `c = softmax(logits)`, `s_j(p) = sum_n c_nj(p) v_nj(p) + bias_j` and `a_j = squash(s_j)`, and adds `v_nj(p) .
    a_j(p)` to the logits (arXiv 1904.09546, section 3.2, "3D convolution based dynamic routing"). Gradients flow
    through all iterations; votes are made only where they are fewer numbers than patches.

    As published, the coefficients of a type sum to 1 over all parents and positions together: with 32 types of parents
    and 16 positions each is 1/512 at the start, and the bias decides most of what comes out.

    Args:
        types: Number J of types of the parents.
        dim: Dimension E of the parents.
        kernel_size: Height and width of the kernel.
        strides: Stride of the convolution.
        padding: `same`: zeros around the map, so that its sides are divided by the stride, rounded up; where their
            number is odd, one more at the bottom and on the right. `valid`: none.
        iterations: Number of iterations.
        layout: `transposed`: the channels of a type are its components. `reference`: the memory of the capsules is
            read as channels, rows and columns, which mixes up positions and types; for the authors' weights alone.
        normalize_over: `parents_and_positions`: the coefficients of a child type sum to 1 over all parents at all
            positions; `parents`: at each position by itself.
        squash_over: `map`: all positions of a parent type are scaled by the length of its whole map; `capsule`: each
            capsule is squashed by itself.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are equal; `random`: they are
            drawn once for each pair of types, the same in every model.
        kernel_initializer: Keras initializer of the kernel, by name or as {class_name, config}; fans are those of a
            convolution of one type.
        bias_initializer: Keras initializer of the parents' biases; if not given, the constant 0.1.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Capsules `(B, H, W, N, D)`.

    Returns:
        Capsules `(B, H', W', J, E)`, shorter than 1.

    Raises:
        ShapeError: The input is not a map of capsules, or smaller than the kernel.

    Examples:
        >>> import torch
        >>> ConvolutionDynamicCapsules(types=32, dim=8)(torch.rand(2, 4, 4, 32, 8)).shape
        torch.Size([2, 4, 4, 32, 8])
    """

    def __init__(
        self,
        types: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        kernel_size: pydantic.PositiveInt = 3,
        *,
        strides: pydantic.PositiveInt = 1,
        padding: Padding = "same",
        iterations: pydantic.PositiveInt = 3,
        layout: Layout = "transposed",
        normalize_over: NormalizeOver = "parents_and_positions",
        squash_over: SquashOver = "map",
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
        self.padding = padding
        self.iterations = iterations
        self.layout = layout
        self.normalize_over = normalize_over
        self.squash_over = squash_over
        self.routing = routing
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer

    def build(self, capsules_shape: Shape) -> None:
        """Make the weights."""
        self.compute_output_shape(capsules_shape)
        warn_of_other_axes(self, capsules_shape)
        types, dim = (int(size or 0) for size in capsules_shape[3:])
        shape = (self.types * self.dim, dim, self.kernel_size, self.kernel_size)
        make = in_torch_layout(self.kernel_initializer, "kernel")
        self.kernel = self.add_weight(shape, make, name="kernel", **self.regularizing("kernel", [2, 3, 1]))
        self._add_bias_and_coefficients(types)

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives `(B, H', W', J, E)`."""
        self._check_map(capsules_shape)
        sides = padded_sides(self, capsules_shape, self.kernel_size, self.strides, self.padding)
        return (capsules_shape[0], *sides, self.types, self.dim)

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return convolution_dynamic_routing(
            capsules,
            self.kernel.value,
            self.bias.value,
            iterations=self.iterations,
            strides=self.strides,
            padding=self.padding,
            layout=self.layout,
            normalize_over=self.normalize_over,
            squash_over=self.squash_over,
            coefficients=self._fixed(capsules.shape[3]),
        )

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options; the types are the children of each position."""
        options = {name: getattr(self, name) for name in ("iterations", "strides", "padding")}
        options |= {name: getattr(self, name) for name in ("layout", "normalize_over", "squash_over")}
        weights = [weight.value.detach() for weight in (self.kernel, self.bias)]
        one = (1, 1)
        return WindowRecord("convolution_dynamic", weights, options, one, one, (0, 0), self.types, self.dim, "position")
