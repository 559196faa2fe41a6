"""Capsules by EM routing as a Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import pydantic
import torch

from encapkeras.functional import em_routing
from encapkeras.functional.routing.couplings import EMRouting
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import Shape, register_layer
from encapkeras.layers.routing_inputs import Control, capsules_and_activations
from encapkeras.layers.sequence_masks import without_padding
from encapkeras.layers.voting_layer import VotingLayer


@register_layer("em_capsules")
class EmCapsules(VotingLayer):
    """Output capsules by EM routing (Hinton et al. 2018, as in Neural Network Encapsulation), without storing votes.

    Input capsule i of type n votes `vote_ij = W[n, j] u_i + bias[n, j]`. Each output capsule is a Gaussian: the M-step
    sets its mean, its variance and its activation `a_j` from the votes weighted by `R_ij` (and by the input
    activations), the E-step sets `R_ij` to the share of j in the density of vote i. Gradients flow through all
    iterations. The functions' reference has the formulas.

    Args:
        capsules: Number J of output capsules; for a classifier, the number of classes.
        dim: Dimension E of the output capsules.
        iterations: Number of iterations.
        normalize_distances: Whether the E-step's distances are spread to [-5, 5] over the outputs, for each input.
        density_floor: Added to the densities' denominator. The default is that of the paper's code.
        share_positions: Whether all positions of a type share their matrices, and all steps of a sequence. If not, each
            input capsule has its own, in the order (type, row, column).
        use_bias: Whether votes have a bias.
        map_types: If given, the outputs are a square map of that many types, for capsule layers to follow; J must be
            map_types * side * side.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are equal; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}; fans are those of a
            1x1 convolution with one group for each type. If not given, normal with variance 2 / (D + E).
        bias_initializer: Keras initializer of the votes' biases.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, `beta_v` and `beta_a`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or a list of them and their activations `(B, H, W, N)`, at least 0; or a
            sequence `(B, I, D)` or `(B, T, N, D)`, or a list of it and `(B, I)` or `(B, T, N)`.
        mask: True where a capsule is real, `(B, I)` or `(B, T)` of a sequence; the others have activation 0.
        return_ports: Whether to return all ports: `out` and `activations`.

    Returns:
        The means `(B, J, E)`, not squashed; with `map_types`, `(B, side, side, map_types, E)`, `j = (type, row,
        column)`. Or a map of the ports' tensors: `activations` are `(B, J)`, or `(B, side, side, map_types)`, between
        0 and 1.

    Raises:
        ArgumentError: An argument has an invalid value, or J capsules are not a square map.
        ShapeError: The input is not a map or a sequence of capsules, or the activations do not belong to it.

    Examples:
        >>> import torch
        >>> capsules, activations = torch.rand(2, 6, 6, 32, 8), torch.rand(2, 6, 6, 32)
        >>> first = EmCapsules(capsules=128, dim=16, map_types=32)([capsules, activations], return_ports=True)
        >>> first["out"].shape, first["activations"].shape
        (torch.Size([2, 2, 2, 32, 16]), torch.Size([2, 2, 2, 32]))
        >>> EmCapsules(capsules=10, dim=16)([first["out"], first["activations"]]).shape
        torch.Size([2, 10, 16])
    """

    scores_are = "activation"
    regularizable: ClassVar[tuple[str, ...]] = (*VotingLayer.regularizable, "beta_v", "beta_a")
    ports: ClassVar[tuple[str, ...]] = ("out", "activations")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.PositiveInt = 3,
        normalize_distances: bool = False,
        density_floor: pydantic.NonNegativeFloat = 2.220446049250313e-16,
        share_positions: bool = True,
        use_bias: bool = True,
        map_types: pydantic.PositiveInt | None = None,
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        bias_initializer: InitializerConfig = "zeros",
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
        self.normalize_distances = normalize_distances
        self.density_floor = density_floor

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.add_vote_weights(self._check_shapes(input_shape))
        uniform = keras.initializers.RandomUniform(0.0, 1.0)
        shape = (self.capsules,)
        self.beta_v = self.add_weight(shape, uniform, name="beta_v", **self.regularizing("beta_v"))
        self.beta_a = self.add_weight(shape, uniform, name="beta_a", **self.regularizing("beta_a"))

    def _check_shapes(self, input_shape: Any) -> Shape:
        """Return the shape of the capsules among the inputs' shapes."""
        capsules = capsules_and_activations(self, input_shape)
        self.check_capsules(capsules)
        return capsules

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """`(B, H, W, N, D)` or `(B, I, D)` gives `(B, J, E)`, or a map."""
        return self.output_shape(self._check_shapes(input_shape)[0])

    def compute_output_spec(self, inputs: Any, return_ports: bool = False, mask: Any = None) -> Any:
        """Return symbolic outputs: one, or a map of both ports."""
        shape = self.compute_output_shape(keras.tree.map_structure(lambda tensor: tensor.shape, inputs))
        out = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_ports:
            return out
        return {"out": out, "activations": keras.KerasTensor(shape[:-1], dtype=self.compute_dtype)}

    def call(
        self, inputs: torch.Tensor | list[torch.Tensor], return_ports: bool = False, mask: Any = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """See the class."""
        shown = without_padding(self, inputs, mask)
        listed = shown if isinstance(shown, list | tuple) else [shown]
        capsules, activations = self.by_position(*listed)
        if activations is None:
            seen = self.real(mask, listed[0])
            activations = None if seen is None else seen.to(capsules)
        means, out_activations = em_routing(
            capsules,
            self.kernel.value,
            None if self.bias is None else self.bias.value,
            activations,
            self.beta_v.value,
            self.beta_a.value,
            iterations=self.iterations,
            normalize_distances=self.normalize_distances,
            density_floor=self.density_floor,
            coefficients=self.fixed_coefficients(),
        )
        if not return_ports:
            return self.lay_out(means)
        return {"out": self.lay_out(means), "activations": self.lay_out(out_activations)}

    def routing_record(self) -> EMRouting:
        """Return the routing's weights and options."""
        return EMRouting(
            self.kernel.value.detach(),
            None if self.bias is None else self.bias.value.detach(),
            self.iterations,
            "outputs",
            self.beta_v.value.detach(),
            self.beta_a.value.detach(),
            self.normalize_distances,
            self.density_floor,
        )
