"""Capsules by inverted dot-product attention as a Keras layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.functional import AttentionLayer, inverted_attention_routing
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape


@register_layer("inverted_attention_capsules")
class InvertedAttentionCapsules(WindowLayer):
    """Capsules by inverted dot-product attention (Tsai et al. 2020): parents compete for each child, as queries.

    At first `r_ij = 1/J`, and then `r_i = softmax over the parents j of (vote_ij . p_j / sqrt(E))`, with the parents p
    of the pass before; each pass sets `p_j = layer_norm(sum_i r_ij vote_ij)`. A parent competes with those of its
    position. The layer norm has one scale and one offset for all parents; where E is 1, there is none. The paper routes
    all layers of a network at once: `inverted_attention_stack`.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents.
        iterations: Number of passes; 0 and 1 are no routing, all `r_ij` are 1/J.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `vector`: a vote is `W u`; `matrix`: the product of the matrices `U W`.
        matrices: What has matrices of its own: `offset`: each offset in the window, as published; `type`: each type,
            which is faster; `all`: nothing, all children share them; `position`: each offset of each window.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, normal
            with variance J / (I * D) for I children of a parent, as in the paper's code; of matrix poses, D is the
            number of columns.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `scale` and `offset`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or a list of them `(B, I, D)`, or a sequence `(B, T, N, D)`, which has
            one row: `kernel_size`, `strides` and `padding` are one number each.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.

    Returns:
        Parents `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not capsules, or smaller than the window.

    Examples:
        >>> import torch
        >>> capsules = torch.randn(2, 16, 16, 32, 16)
        >>> hidden = InvertedAttentionCapsules(32, 16, kernel_size=3, strides=2)(capsules)
        >>> hidden.shape
        torch.Size([2, 7, 7, 32, 16])
        >>> InvertedAttentionCapsules(10, 16)(hidden).shape
        torch.Size([2, 10, 16])
    """

    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "scale", "offset")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.NonNegativeInt = 2,
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "matrix",
        matrices: Matrices = "offset",
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            capsules,
            dim,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            pose=pose,
            matrices=matrices,
            routing=routing,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        self.iterations = iterations

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.add_kernel(input_shape)
        self.scale = self.offset = None
        if self.dim != 1:
            self.scale, self.offset = (
                self.add_weight((self.dim,), initializer, name=name, autocast=False, **self.regularizing(name))
                for name, initializer in (("scale", "ones"), ("offset", "zeros"))
            )

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that of the paper's code; children that share a matrix count too, for their votes are summed."""
        side, _ = self.matrix_sides(shape)
        children = math.prod(shape.kernel) * shape.types
        return keras.initializers.RandomNormal(stddev=math.sqrt(self.capsules / (side * children)))

    def attention(self, capsules: torch.Tensor) -> AttentionLayer:
        """Return the weights and options by which a map of children is routed."""
        kernel = self.of_types(self.kernel.value, capsules.shape[3])
        scale = kernel.new_ones(1) if self.scale is None else self.scale.value
        offset = kernel.new_zeros(1) if self.offset is None else self.offset.value
        return AttentionLayer(kernel, scale, offset, **self.window_options(capsules))

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        (capsules,) = self.as_maps(inputs, mask)
        iterations = max(1, self.iterations)
        return self.lay_out(inverted_attention_routing(capsules, self.attention(capsules), iterations=iterations))

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        layer = replace(self.attention(self.kernel.value), weight=self.matrices_by_offset(), window=None)  # type: ignore[arg-type]
        return self.window_record("inverted_attention", [layer], iterations=max(1, self.iterations))
