"""Capsules by dynamic routing as a Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pydantic
import torch

from encapkeras.functional import dynamic_routing
from encapkeras.functional.routing.couplings import DynamicRouting
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import Shape, register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.voting_layer import VotingLayer


@register_layer("dynamic_capsules")
class DynamicCapsules(VotingLayer):
    """Output capsules by dynamic routing (Sabour et al. 2017, procedure 1), computed without ever creating the votes.

    Input capsule i of type n votes `vote_ij = W[n, j] u_i + bias[n, j]`. Logits `b_ij` start at 0; each iteration takes
    `c = softmax(b)`, `s_j = sum_i c_ij vote_ij` and `v_j = squash(s_j)`, and adds `vote_ij . v_j` to the logits.
    Gradients flow through all iterations. With a bias of the outputs, `v_j = squash(s_j + output_bias_j)` in each
    iteration (Rajasegaran et al. 2019, arXiv 1904.09546).

    Args:
        capsules: Number J of output capsules; for a classifier, the number of classes.
        dim: Dimension E of the output capsules.
        iterations: Number of iterations.
        softmax_over: `inputs`: an output's coefficients sum to 1 over the input capsules, as in the code of Neural
            Network Encapsulation. `outputs`: an input's sum to 1 over the output capsules, as in Sabour et al. 2017.
        share_positions: Whether all positions of a type share their matrices, and all steps of a sequence. If not, each
            input capsule has its own, in the order (type, row, column).
        use_bias: Whether votes have a bias.
        use_output_bias: Whether each output has a bias, which is added to its sum of votes.
        map_types: If given, the outputs are a square map of that many types, for capsule layers to follow; J must be
            map_types * side * side.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are equal; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}; fans are those of a
            1x1 convolution with one group for each type. If not given, normal with variance 2 / (D + E).
        bias_initializer: Keras initializer of the votes' biases.
        output_bias_initializer: Keras initializer of the outputs' biases, `(J, E)`.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias` and `output_bias`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Capsules `(B, H, W, N, D)`, or a sequence of them `(B, I, D)` or `(B, T, N, D)`.
        mask: True where a capsule is real, `(B, I)` or `(B, T)` of a sequence; the others have coefficients 0.

    Returns:
        Capsules `(B, J, E)`, shorter than 1; with `map_types`, `(B, side, side, map_types, E)`, `j = (type, row,
        column)`.

    Raises:
        ArgumentError: An argument has an invalid value, or J capsules are not a square map.
        ShapeError: The input is not a map or a sequence of capsules, or its mask is of another size.

    Examples:
        >>> import torch
        >>> capsules = torch.rand(2, 6, 6, 32, 8)
        >>> DynamicCapsules(capsules=10, dim=16)(capsules).shape
        torch.Size([2, 10, 16])
        >>> DynamicCapsules(capsules=128, dim=16, map_types=32)(capsules).shape
        torch.Size([2, 2, 2, 32, 16])
    """

    squashes = True
    regularizable: ClassVar[tuple[str, ...]] = (*VotingLayer.regularizable, "output_bias")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.PositiveInt = 3,
        softmax_over: Literal["inputs", "outputs"] = "inputs",
        share_positions: bool = True,
        use_bias: bool = True,
        use_output_bias: bool = False,
        map_types: pydantic.PositiveInt | None = None,
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        bias_initializer: InitializerConfig = "zeros",
        output_bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            capsules,
            dim,
            iterations=iterations,
            share_positions=share_positions,
            use_bias=use_bias,
            map_types=map_types,
            routing=routing,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )
        self.softmax_over = softmax_over
        self.use_output_bias = use_output_bias
        self.output_bias_initializer = output_bias_initializer

    def build(self, capsules_shape: Shape) -> None:
        """Make the weights."""
        self.add_vote_weights(capsules_shape)
        self.output_bias = None
        if self.use_output_bias:
            initializer = get_initializer(self.output_bias_initializer, "output_bias")
            regularizing = self.regularizing("output_bias", [])
            self.output_bias = self.add_weight(
                (self.capsules, self.dim), initializer, name="output_bias", **regularizing
            )

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` or `(B, I, D)` gives `(B, J, E)`, or a map."""
        self.check_capsules(capsules_shape)
        return self.output_shape(capsules_shape[0])

    def call(self, capsules: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        listed, _ = self.by_position(capsules)
        fixed = self.fixed_coefficients()
        if fixed is not None and self.softmax_over == "inputs":
            fixed = fixed * (self.capsules / (listed.shape[1] * listed.shape[2]))
        outputs = dynamic_routing(
            listed,
            self.kernel.value,
            None if self.bias is None else self.bias.value,
            iterations=self.iterations,
            softmax_over=self.softmax_over,
            coefficients=fixed,
            output_bias=None if self.output_bias is None else self.output_bias.value,
            mask=self.real(mask, capsules),
        )
        return self.lay_out(outputs)

    def routing_record(self) -> DynamicRouting:
        """Return the routing's weights and options."""
        bias, output_bias = (
            None if weight is None else weight.value.detach() for weight in (self.bias, self.output_bias)
        )
        return DynamicRouting(self.kernel.value.detach(), bias, self.iterations, self.softmax_over, output_bias)
