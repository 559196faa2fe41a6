"""Capsules by variational Bayes as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional import batch_norm, capsule_batch_norm, variational_bayes_routing
from encapkeras.functional.routing.routing_inputs import Competition
from encapkeras.functional.torch_support.precision import widen
from encapkeras.layers.block_weights import BlockBuilder, MovingAverage, Weights, norm_weights
from encapkeras.layers.gaussian_layer import GaussianLayer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.window_layer import Matrices, WindowLayer, WindowRecord, WindowShape

COORDINATE = 0.1
"""What the paper's code adds to the votes of its class layer for the place of every child alike."""


@register_layer("variational_bayes_capsules")
class VariationalBayesCapsules(GaussianLayer):
    """Capsules by variational Bayes (De Sousa Ribeiro, Leontidis and Kollias 2020): parents with priors.

    Each parent is a Gaussian of its votes whose mean, covariance and share have priors, so that no variance collapses.
    The iterations set the posterior from the votes weighted by `r_ij a_i`, then `r_ij` to the share of j in the
    expected density of vote i among all parents that child i feeds. Poses are the posterior means, activations
    `sigmoid(-exp(E[log pi]) H)` with the entropy H of a parent; a batch norm for each type, without scale and offset,
    normalizes both, the activations before the sigmoid. The functions' reference has the formulas.

    Args:
        capsules: Number J of parent types; for a classifier, the number of classes.
        dim: Dimension E of the parents; of matrices, the number of elements.
        iterations: Number of iterations.
        covariance: `diagonal`, or `full`, which votes of few dimensions can afford.
        density_floor: Children whose density is lower for all parents count less, as outliers; 0 for none. The default
            is that of the paper's code.
        coordinates: What is added to the last elements of a vote's first two rows: `child`: the row and the column of
            the child in the window, (index + 1) / (10 * side), as the paper means it; `constant`: 0.1, which its code
            adds in the class layer; if not given, nothing.
        kernel_size: Height and width of the window, or [rows, columns]; if not given, a window as large as the map,
            whose parents are a list.
        strides: Step of the window, or [rows, columns].
        padding: Rows and columns of nothing on each side, or [rows, columns].
        pose: `matrix`: a vote is the product of the matrices `U W`; `vector`: `W u`.
        matrices: What has matrices of its own: `offset`: each offset in the window; `type`: each type, as published for
            the class layer; `all`: nothing, all children share them; `position`: each offset of each window, whose
            parents then compete with those of their position alone.
        betas: Whether the scores have the paper's offsets beta_a - beta_u, which its batch norm takes away again: they
            learn nothing, and only make the number of parameters that of its code.
        moving_average: Of the batch norms' statistics, for prediction: `momentum`: each batch has a share of 0.1;
            `warm`: the plain average of the first ten batches, then the same; short trainings validate far better.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given, uniform
            within sqrt(6 / (K * K * (N * D + J * E))) as in the paper's code, where `type` has K = 1.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `beta_a` and `beta_u`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of capsules `(B, H, W, N, D)` and their activations `(B, H, W, N)`, at least 0; or of a list of
            capsules `(B, I, D)` and `(B, I)`, or a sequence of them `(B, T, N, D)` and `(B, T, N)`, which has one row:
            `kernel_size`, `strides` and `padding` are one number each.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.
        return_ports: Whether to return all ports: `out` and `activations`.
        training: Whether the batch norms use the batch's statistics.

    Returns:
        Poses `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map. Or a map of the ports' tensors:
        `activations` are `(B, P, Q, J)` or `(B, J)`, between 0 and 1; the class scores.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not capsules and their activations, or smaller than the window.

    Examples:
        >>> import torch
        >>> capsules, activations = torch.rand(4, 7, 7, 8, 16), torch.rand(4, 7, 7, 8)
        >>> layer = VariationalBayesCapsules(16, 16, kernel_size=3, strides=2)
        >>> hidden = layer([capsules, activations], return_ports=True)
        >>> hidden["out"].shape, hidden["activations"].shape
        (torch.Size([4, 3, 3, 16, 16]), torch.Size([4, 3, 3, 16]))
        >>> classes = VariationalBayesCapsules(10, 16, matrices="type", coordinates="child")
        >>> classes([hidden["out"], hidden["activations"]], return_ports=True)["activations"].shape
        torch.Size([4, 10])
    """

    regularizable: ClassVar[tuple[str, ...]] = (*WindowLayer.regularizable, "beta_a", "beta_u")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.PositiveInt = 3,
        covariance: Literal["diagonal", "full"] = "diagonal",
        density_floor: pydantic.NonNegativeFloat = 1e-11,
        coordinates: Literal["child", "constant"] | None = None,
        kernel_size: WindowSize = None,
        strides: Strides = 1,
        padding: Padding = 0,
        pose: Literal["vector", "matrix"] = "matrix",
        matrices: Matrices = "offset",
        betas: bool = False,
        moving_average: MovingAverage = "momentum",
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
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
        self.covariance = covariance
        self.density_floor = density_floor
        self.betas = betas
        self.moving_average = moving_average

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.add_kernel(input_shape)
        self.beta_a: Any = None
        self.beta_u: Any = None
        if self.betas:
            shape = (self.capsules,)
            self.beta_a = self.add_weight(shape, "zeros", name="beta_a", **self.regularizing("beta_a"))
            self.beta_u = self.add_weight(shape, "zeros", name="beta_u", **self.regularizing("beta_u"))
        builder = BlockBuilder(self, moving_average=self.moving_average)
        names = ("pose_norm", "activation_norm")
        self._norms = [Weights(builder.norm(name, self.capsules, scale=False, offset=False)) for name in names]

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return that of the paper's code, whose fans count the elements of a pose."""
        offsets = 1 if self.matrices == "type" else math.prod(shape.kernel)
        bound = math.sqrt(6 / (offsets * (shape.types * max(shape.dim, 2) + self.capsules * max(self.dim, 2))))
        return keras.initializers.RandomUniform(-bound, bound)

    def coordinates_of(self, row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return row and column, or twice the constant."""
        if self.coordinates == "constant":
            return torch.full_like(row, COORDINATE), torch.full_like(row, COORDINATE)
        return (row + 1) / (10 * len(row)), (column + 1) / (10 * column.shape[1])

    @property
    def _competition(self) -> Competition:
        return "position" if self.matrices == "position" else "child"

    def call(
        self, inputs: list[torch.Tensor], return_ports: bool = False, training: bool | None = None, mask: Any = None
    ) -> Any:
        """See the class."""
        capsules, activations = self.as_maps(inputs, mask)
        wide = widen(capsules)  # a batch norm needs the digits of the scores
        means, scores = variational_bayes_routing(
            wide,
            activations,
            self.of_types(self.kernel.value, wide.shape[3]),
            iterations=self.iterations,
            covariance=self.covariance,
            density_floor=self.density_floor,
            offsets=self.vote_offsets(capsules),
            competition=self._competition,
            **self.window_options(wide),
        )
        if self.betas:
            scores = scores + (self.beta_a.value - self.beta_u.value)
        training = bool(training and self.trainable)
        of_poses, of_scores = (norm_weights(norm.tensors()) for norm in self._norms)
        poses = capsule_batch_norm(means.movedim(3, 1), of_poses, training=training).movedim(1, 3)
        scores = batch_norm(scores.movedim(3, 1), of_scores, training=training).movedim(1, 3)
        return self.lay_out_ports(poses.to(capsules.dtype), scores.sigmoid().to(capsules.dtype), return_ports)

    @property
    def not_in_onnx(self) -> str:
        """Why the layer cannot be exported as ONNX: with covariance full."""
        if self.covariance == "diagonal":
            return ""
        return "covariance full needs a Cholesky factorization, which ONNX lacks; export it as torch or keras"

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        if self.covariance == "full":
            raise ArgumentError(f"layer '{self.name}' cannot be analysed: its covariance is full")
        options = {**self.sides, "iterations": self.iterations, "density_floor": self.density_floor}
        options["competition"] = self._competition
        weights = [self.matrices_by_offset(), self.vote_offsets(self.kernel.value)]
        return self.window_record("variational_bayes", weights, **options)
