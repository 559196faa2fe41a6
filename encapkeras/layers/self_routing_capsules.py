"""Self-routing capsules as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.functional import self_routing
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape


@register_layer("self_routing_capsules")
class SelfRoutingCapsules(WindowLayer):
    """Capsules by self-routing (Hahn, Pyeon and Kim 2019): each child decides alone, without iterations.

    `r_i = softmax over the parents j of (routing_kernel_ij . u_i + routing_bias_ij)`, `A_j = sum_i a_i r_ij`; the
    activation of a parent is its share `A_j / sum_i a_i`, its pose `sum_i a_i r_ij vote_ij / A_j`. At the start all
    `r_ij` are 1/J. In the paper a batch norm of the poses follows each hidden layer, and the loss is that of the
    logarithm of the class capsules' activations.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents. If not given, there are no poses and no votes, as in the last layer of the
            paper's networks: `out` are the activations.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `vector`: a vote is `W u`; `matrix`: the product of the matrices `U W`.
        matrices: What has matrices of its own, for votes and for routing: `offset`: each offset in the window, as
            published; `type`: each type, which is faster; `all`: nothing, all children share them; `position`: each
            offset of each window.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, uniform
            within sqrt(6 / (J * E * D)), as in the paper's code.
        routing_initializer: Keras initializer of the routing's matrices; its biases start at 0.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `routing_kernel` and `routing_bias`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of capsules `(B, H, W, N, D)` and their activations `(B, H, W, N)`, at least 0; or of a list of
            capsules `(B, I, D)` and `(B, I)`, or a sequence of them `(B, T, N, D)` and `(B, T, N)`, which has one row:
            `kernel_size`, `strides` and `padding` are one number each.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.
        return_ports: Whether to return all ports: `out` and `activations`.

    Returns:
        Poses `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map; without `dim`, the activations. Or a map of
        the ports' tensors: `activations` are `(B, P, Q, J)` or `(B, J)`, and sum to 1 over J.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not capsules and their activations, or smaller than the window.

    Examples:
        >>> import torch
        >>> capsules, activations = torch.rand(2, 8, 8, 32, 16), torch.rand(2, 8, 8, 32)
        >>> layer = SelfRoutingCapsules(32, 16, kernel_size=3, strides=2, padding=1)
        >>> hidden = layer([capsules, activations], return_ports=True)
        >>> hidden["out"].shape, hidden["activations"].shape
        (torch.Size([2, 4, 4, 32, 16]), torch.Size([2, 4, 4, 32]))
        >>> SelfRoutingCapsules(10)([hidden["out"], hidden["activations"]]).shape
        torch.Size([2, 10])
    """

    takes_activations = True
    scores_are = "activation"
    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "routing_kernel", "routing_bias")
    ports: ClassVar[tuple[str, ...]] = ("out", "activations")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt | None = None,
        *,
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "vector",
        matrices: Matrices = "offset",
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        routing_initializer: InitializerConfig = "zeros",
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
        self.routing_initializer = routing_initializer

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        shape = self.add_kernel(input_shape)
        self.routing_kernel = self.routing_bias = None
        if self.routing is None:
            sizes = self.shared_sizes(shape)
            first = len(sizes) - 4
            regularizing = self.regularizing("routing_kernel", [first, first + 1, first + 2, first + 4])
            initializer = self.routing_initializer
            self.routing_kernel = self.add_weight(
                (*sizes, shape.dim), initializer, name="routing_kernel", **regularizing
            )
            regularizing = self.regularizing("routing_bias")
            self.routing_bias = self.add_weight(sizes, "zeros", name="routing_bias", **regularizing)

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that of the paper's code, whose fan leaves out the number of children."""
        bound = math.sqrt(6 / (self.capsules * (self.dim or 1) * shape.dim))
        return keras.initializers.RandomUniform(-bound, bound)

    def call(
        self, inputs: list[torch.Tensor], return_ports: bool = False, mask: Any = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """See the class."""
        capsules, activations = self.as_maps(inputs, mask)
        weights = (
            None if weight is None else self.of_types(weight.value, capsules.shape[3])
            for weight in (self.kernel, self.routing_kernel, self.routing_bias)
        )
        poses, shares = self_routing(capsules, activations, *weights, **self.window_options(capsules))
        shares = self.lay_out(shares)
        out = shares if poses is None else self.lay_out(poses)
        return {"out": out, "activations": shares} if return_ports else out

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        matrices = self.matrices_by_offset()
        weights = [weight for weight in (self.routing_kernel, self.routing_bias) if weight is not None]
        routing, bias = (self.by_offset(weight.value) for weight in weights)
        return self.window_record("self_routing", [matrices, routing, bias], **self.sides)
