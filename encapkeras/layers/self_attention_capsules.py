"""Capsules by self-attention routing as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.functional import self_attention_routing
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape

_TRUNCATED = 0.87962566103423978
"""Standard deviation of a normal distribution of deviation 1 that is cut at 2."""


@register_layer("self_attention_capsules")
class SelfAttentionCapsules(WindowLayer):
    """Capsules by self-attention routing (Mazzia, Salvetti and Chiaberge 2021, arXiv:2101.12491), without iterations.

    `m_j = sum_i vote_ij`, `c_i = softmax over the parents j of (vote_ij . m_j / sqrt(E))`, `s_j = sum_i (c_ij +
    bias_ij) vote_ij`, and the parent is `(1 - exp(-|s_j|)) s_j / |s_j|`: the class capsules of Efficient-CapsNet. The
    bias is learned, starts at 0 and is added behind the softmax, so that what a vote counts may leave [0, 1]. The paper
    has windows as large as the map alone.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `vector`: a vote is `W u`; `matrix`: the product of the matrices `U W`.
        matrices: What has matrices and biases of its own: `offset`: each offset in the window, as published, for then
            each child has its own; `type`: each type; `all`: nothing, all children share them; `position`: each offset
            of each window.
        routing: If given, a control in place of the routing, without bias: `uniform`: all coefficients are 1/J;
            `random`: they are drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, He's
            normal with J * I * D inputs, I being the children of a parent, as the axes of the paper's code give it:
            votes are short, and all coefficients nearly 1/J.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, a list of them `(B, I, D)`, or a sequence `(B, T, N, D)`.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.

    Returns:
        Parents `(B, P, Q, J, E)`, `(B, Q, J, E)` of a sequence, or `(B, J, E)` where the window is the map; of lengths
        below 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not capsules, or smaller than the window.

    Examples:
        >>> import torch
        >>> SelfAttentionCapsules(10, 16)(torch.rand(2, 1, 1, 16, 8)).shape
        torch.Size([2, 10, 16])
        >>> SelfAttentionCapsules(32, 16, kernel_size=3, strides=2, padding=1)(torch.rand(2, 8, 8, 32, 8)).shape
        torch.Size([2, 4, 4, 32, 16])
    """

    squashes = True
    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "bias")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "vector",
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

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        shape = self.add_kernel(input_shape)
        self.bias = None
        if self.routing is None:
            sizes = self.shared_sizes(shape)
            self.bias = self.add_weight(sizes, "zeros", name="bias", **self.regularizing("bias"))

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that of the paper's code; children that share a matrix count too, for their votes are summed."""
        side, _ = self.matrix_sides(shape)
        inputs = self.capsules * math.prod(shape.kernel) * shape.types * side
        return keras.initializers.TruncatedNormal(stddev=math.sqrt(2 / inputs) / _TRUNCATED)

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        (capsules,) = self.as_maps(inputs, mask)
        types = capsules.shape[3]
        kernel = self.of_types(self.kernel.value, types)
        bias = None if self.bias is None else self.of_types(self.bias.value, types)
        parents = self_attention_routing(capsules, kernel, bias, **self.window_options(capsules))
        return self.lay_out(parents)

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        bias = None if self.bias is None else self.by_offset(self.bias.value)
        return self.window_record("self_attention", [self.matrices_by_offset(), bias], **self.sides)
