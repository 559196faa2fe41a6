"""Capsules by dynamic routing in windows as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional import window_dynamic_routing
from encapkeras.functional.routing.routing_inputs import Competition
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape


@register_layer("window_dynamic_capsules")
class WindowDynamicCapsules(WindowLayer):
    """Capsules by dynamic routing in windows that move over the map (Sabour et al. 2017, as in Hahn et al. 2019).

    The logits start at 0; each iteration sets `c = softmax over the parents j of the logits`, `v_j = squash(sum_i c_ij
    vote_ij)` and, but for the last, `logits_ij += vote_ij . v_j`. A parent has the children in its window alone;
    `dynamic_capsules` is the same of the whole map, with other choices.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents.
        iterations: Number of iterations; 0 and 1 are no routing, all `c_ij` are 1/J.
        competition: Which parents share a child. `position`: the J types of one position, in each window of the child
            anew, as in the paper of 2019; `child`: all parents that the child feeds, of every type and position.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `vector`: a vote is `W u`; `matrix`: the product of the matrices `U W`.
        matrices: What has matrices of its own: `offset`: each offset in the window, as published; `type`: each type,
            which is faster; `all`: nothing, all children share them (Gu and Tresp 2020, with routing `uniform`);
            `position`: each offset of each window, with competition `position` alone.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        use_output_bias: Whether each parent type has a bias, which is added to its sum of votes in each iteration.
            Without it, negative children give negative parents of equal lengths (Peer et al. 2021).
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, normal
            such that the first sums of votes are about as long as the children, for squash all but deletes short ones:
            variance J^2 / (I * E) with I children of a parent, E being the columns where poses are matrices. The
            paper's code has J * D / 3 in place of J^2 / I, or deviations drawn by hand, which this one explains.
        output_bias_initializer: Keras initializer of these biases, `(J, E)`; the code of capsnet-limitations has 0.1.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `output_bias`, and `activity_regularizer`;
            `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or a list of them `(B, I, D)`, or a sequence `(B, T, N, D)`, which has
            one row: `kernel_size`, `strides` and `padding` are one number each; lengths should be below 1.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.

    Returns:
        Parents `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map, of lengths below 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not capsules, or smaller than the window.

    Examples:
        >>> import torch
        >>> capsules = torch.rand(2, 8, 8, 32, 16)
        >>> hidden = WindowDynamicCapsules(32, 16, kernel_size=3, strides=2, padding=1)(capsules)
        >>> hidden.shape
        torch.Size([2, 4, 4, 32, 16])
        >>> WindowDynamicCapsules(10, 16)(hidden).shape
        torch.Size([2, 10, 16])
    """

    squashes = True
    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "output_bias")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.NonNegativeInt = 3,
        competition: Competition = "position",
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "vector",
        matrices: Matrices = "offset",
        routing: Control | None = None,
        use_output_bias: bool = False,
        kernel_initializer: InitializerConfig | None = None,
        output_bias_initializer: InitializerConfig = "zeros",
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
        if competition == "child" and matrices == "position":
            raise ArgumentError(
                f"{self.name}: matrices 'position' go with competition 'position' alone; with 'child', 'matrices' can "
                "be 'offset' or 'type'"
            )
        self.iterations = iterations
        self.competition = competition
        self.use_output_bias = use_output_bias
        self.output_bias_initializer = output_bias_initializer

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.add_kernel(input_shape)
        self.output_bias = None
        if self.use_output_bias:
            initializer = get_initializer(self.output_bias_initializer, "output_bias")
            options = self.regularizing("output_bias", [])
            self.output_bias = self.add_weight((self.capsules, self.dim), initializer, name="output_bias", **options)

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that which keeps lengths in the first iteration, where a child gives all its parents as much."""
        outputs: float = self.capsules
        if self.competition == "child" and self.kernel_size is not None:
            outputs *= max(1, math.prod(shape.kernel) / math.prod(self.sides["strides"]))
        children = math.prod(shape.kernel) * shape.types
        _, side = self.matrix_sides(shape)
        return keras.initializers.RandomNormal(stddev=outputs / math.sqrt(children * side))

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        (capsules,) = self.as_maps(inputs, mask)
        options = self.window_options(capsules)
        iterations = max(1, self.iterations)
        if self.routing == "uniform":  # one iteration, by sums alone
            iterations, _ = 1, options.pop("coefficients")
        bias = None if self.output_bias is None else self.output_bias.value
        options.update(iterations=iterations, competition=self.competition, output_bias=bias)
        parents = window_dynamic_routing(capsules, self.kernel.value, **options)
        return self.lay_out(parents)

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        options = {**self.sides, "competition": self.competition, "iterations": max(1, self.iterations)}
        if self.output_bias is not None:
            options["output_bias"] = self.output_bias.value.detach()
        return self.window_record("dynamic", [self.matrices_by_offset()], **options)
