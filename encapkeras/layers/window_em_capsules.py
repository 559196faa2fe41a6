"""Capsules by EM routing in windows as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional import EmOptions, window_em_routing
from encapkeras.functional.routing.routing_inputs import Competition
from encapkeras.layers.gaussian_layer import GaussianLayer
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.sequence_masks import capsule_mask
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape

BETA_A = -1000.0
"""The mean at the start in the code of Gritzman 2019."""


@register_layer("window_em_capsules")
class WindowEmCapsules(GaussianLayer):
    """Matrix capsules by EM routing in windows (Hinton, Sabour and Frosst 2018, as corrected by Gritzman 2019).

    Each parent is a Gaussian of its votes. The M-step sets its mean, its variance and its activation
    `sigmoid(lambda_t (beta_a_j - cost_j))` from the votes weighted by `R_ij a_i`, with `cost_j = sum_i R_ij a_i sum_e
    (beta_v_j + log(var_je) / 2)`; the E-step sets `R_ij` to the share of j in `a_j` times the density of vote i.
    `em_capsules` is the variant of another paper, without windows.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents; of matrices, the number of elements.
        iterations: Number of iterations.
        competition: Which parents compete for a child: `child`: all that the child feeds, of every type and position,
            as published; `position`: the types of one position, in each window of a child anew.
        coordinates: If `child`, the column and the row of the child in the window, (index + 0.5) / side, are added to
            the last elements of the first two rows of its votes, as in the published class layer.
        final_lambda: Inverse temperature of the activations, which the iterations approach: lambda_t = final_lambda *
            (1 - 0.95^t).
        epsilon: Added to the sums of weights, to the variances and to what uniform shares divide by.
        activation_floor: Added to the parents' activations in the E-step.
        normalize_cost: Whether costs are multiplied by 100 J / I, so that they do not grow with the number I of
            children (Gritzman 2019).
        initial: Coefficients of the first iteration: `uniform`, equal shares that sum to 1; or `one`.
        fillers: With competition `child`: whether parents that a child does not feed stay in its softmax, as in the
            code of Gritzman 2019. Not recommended: a sample then depends on its batch.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `matrix`: a vote is the product of the matrices `U W`; `vector`: `W u`.
        matrices: What has matrices of its own: `offset`: each offset in the window; `type`: each type, as published for
            the class layer; `all`: nothing, all children share them; `position`: each offset of each window.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, normal
            with deviation 1, cut at 2, as in the code of Gritzman 2019.
        beta_v_initializer: Keras initializer of beta_v. If not given, uniform within sqrt(6 / (J + 1)), as there.
        beta_a_initializer: Keras initializer of beta_a. If not given, -1000, the mean there, against the costs of small
            variances at the start, which are about as far below 0. The deviation there, 500, is left out: steps of a
            beta_a change an activation by final_lambda times as much, so differences at the start stay for long.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `beta_v` and `beta_a`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of capsules `(B, H, W, N, D)` and their activations `(B, H, W, N)`, at least 0; or of a list of
            capsules `(B, I, D)` and `(B, I)`, or a sequence of them `(B, T, N, D)` and `(B, T, N)`, which has one row:
            `kernel_size`, `strides` and `padding` are one number each.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.
        return_ports: Whether to return all ports: `out` and `activations`.

    Returns:
        The means `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map. Or a map of the ports' tensors:
        `activations` are `(B, P, Q, J)` or `(B, J)`, between 0 and 1; the class scores.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not capsules and their activations, or smaller than the window.

    Examples:
        >>> import torch
        >>> capsules, activations = torch.rand(4, 7, 7, 8, 16), torch.rand(4, 7, 7, 8)
        >>> layer = WindowEmCapsules(16, 16, kernel_size=3, strides=2)
        >>> hidden = layer([capsules, activations], return_ports=True)
        >>> hidden["out"].shape, hidden["activations"].shape
        (torch.Size([4, 3, 3, 16, 16]), torch.Size([4, 3, 3, 16]))
        >>> classes = WindowEmCapsules(10, 16, matrices="type", coordinates="child")
        >>> classes([hidden["out"], hidden["activations"]], return_ports=True)["activations"].shape
        torch.Size([4, 10])
    """

    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "beta_v", "beta_a")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.PositiveInt = 3,
        competition: Competition = "child",
        coordinates: Literal["child"] | None = None,
        final_lambda: pydantic.PositiveFloat = 0.01,
        epsilon: pydantic.PositiveFloat = 1e-9,
        activation_floor: pydantic.NonNegativeFloat = 1e-9,
        normalize_cost: bool = True,
        initial: Literal["uniform", "one"] = "uniform",
        fillers: bool = False,
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "matrix",
        matrices: Matrices = "offset",
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        beta_v_initializer: InitializerConfig | None = None,
        beta_a_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            capsules,
            dim,
            iterations=iterations,
            coordinates=coordinates,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            pose=pose,
            matrices=matrices,
            routing=routing,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        if fillers and competition != "child":
            raise ArgumentError(f"{self.name}: fillers belong to competition child; received {competition!r}")
        self.competition = competition
        self.options = EmOptions(final_lambda, epsilon, activation_floor, normalize_cost, initial, fillers)
        self.beta_v_initializer = beta_v_initializer
        self.beta_a_initializer = beta_a_initializer

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.add_kernel(input_shape)
        bound = math.sqrt(6 / (self.capsules + 1))
        uniform = keras.initializers.RandomUniform(-bound, bound)
        self.beta_v = self._beta("beta_v", self.beta_v_initializer, uniform)
        self.beta_a = self._beta("beta_a", self.beta_a_initializer, keras.initializers.Constant(BETA_A))

    def _beta(self, name: str, given: InitializerConfig | None, usual: keras.initializers.Initializer) -> Any:
        """Add one number for each type, float32 or better: it may be large, and learns in small steps."""
        initializer = usual if given is None else get_initializer(given, name)
        options = {"autocast": False, **self.regularizing(name)}
        return self.add_weight((self.capsules,), initializer, name=name, **options)

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that of Gritzman's code."""
        return keras.initializers.TruncatedNormal(stddev=1.0)

    def coordinates_of(self, row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return column and row, as fractions of the window."""
        return (column + 0.5) / column.shape[1], (row + 0.5) / len(row)

    def call(self, inputs: list[torch.Tensor], return_ports: bool = False, mask: Any = None) -> Any:
        """See the class."""
        capsules, activations = self.as_maps(inputs, mask)
        seen = capsule_mask(self, mask, inputs[0]) if self.kernel_size is None else None
        means, out_activations = window_em_routing(
            capsules,
            activations,
            self.of_types(self.kernel.value, capsules.shape[3]),
            self.beta_v.value,
            self.beta_a.value,
            iterations=self.iterations,
            competition=self.competition,
            offsets=self.vote_offsets(capsules),
            count=None if seen is None else seen.flatten(1).sum(1),
            options=self.options,
            **self.window_options(capsules),
        )
        return self.lay_out_ports(means, out_activations, return_ports)

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        if self.options.fillers:
            raise ArgumentError(f"layer '{self.name}' cannot be analysed with fillers, which depend on the batch")
        betas = [beta.value.detach() for beta in (self.beta_v, self.beta_a)]
        weights = [self.matrices_by_offset(), *betas, self.vote_offsets(self.kernel.value)]
        options = {**self.sides, "competition": self.competition, "iterations": self.iterations}
        return self.window_record("em", weights, options=self.options, **options)
