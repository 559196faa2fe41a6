"""Capsules by Heinsen's first routing as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import heinsen_2019_routing
from encapkeras.functional.routing.heinsen_2019 import Density
from encapkeras.layers.initializers import random_shares
from encapkeras.layers.registry import CapsuleLayer, Shape, check_own_weights, register_layer
from encapkeras.layers.routing_inputs import Control, as_list, capsules_and_activations, listed_shape, numbers_as_list
from encapkeras.layers.sequence_masks import without_padding
from encapkeras.layers.window_layer import WindowRecord, list_record


@register_layer("heinsen_2019_capsules")
class Heinsen2019Capsules(CapsuleLayer):
    """Capsules by Heinsen's routing of 2019: matrices with scores, which pay for what they use and ignore.

    `vote_ij = M_i W_ij + B_ij`, `f_i = sigmoid(score_i)`. `R_ij` is 1/J, later `softmax over the outputs j of (log
    sigmoid(score_j) + log density_j(vote_ij))`. With `use = f_i R_ij` and `ignore = f_i - use`, `score_j = sum_i
    (beta_use_ij use_ij - beta_ignore_ij ignore_ij)`; the capsule is the mean of the votes, weighted by use. Scores are
    logits: those of class capsules go to a cross-entropy as they are. Weights start as published: the matrices normal
    with deviation 1 / D for D columns of the inputs, all else 0.

    Args:
        capsules: Number J of outputs; for a classifier, the number of classes. Or `inputs`, with `variable_outputs`:
            as many as inputs.
        dim: Dimension of the outputs: their rows, which are those of the inputs, times their columns.
        rows: Rows of the matrices, which are row-major in their capsules. If not given, input capsules are square.
        iterations: Number of iterations; 0 and 1 are no routing, all `R_ij` are 1/J.
        density: `gaussian`, with mean and variance of the votes; or `skm`, of soft k-means, the softmax of the negative
            squared distance over the outputs.
        variable_inputs: Whether all inputs share their matrices, biases and betas, so that there may be any number.
        variable_outputs: Whether all outputs share them; they differ by `output_bias` times -1 to 1 in equal steps.
        single_beta: Whether `beta_use` is `beta_ignore` too.
        routing: If given, a control in place of the routing: `uniform`: all `R_ij` are 1/J; `random`: they are drawn
            once, the same in every model; with `variable_inputs` for each output, which then changes scores alone.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, `beta_use` and `beta_ignore`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of capsules `(B, I, D)` and their scores `(B, I)`, logits, where -inf takes an input out; or of
            maps `(B, H, W, N, D)` and `(B, H, W, N)`, listed in the order (type, row, column).
        mask: True where an input is real, `(B, I)` of a list; the others have the score -inf.
        return_ports: Whether to return all ports: `out`, `activations` and `variances`.

    Returns:
        The means `(B, J, dim)`. Or a map of the ports' tensors: `activations` are the scores `(B, J)`, logits of any
        sign; `variances` are those of the votes, `(B, J, dim)`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not capsules and their scores, or of unknown number without `variable_inputs`.

    Examples:
        >>> import torch
        >>> capsules, scores = torch.randn(2, 9, 9, 64, 16), torch.randn(2, 9, 9, 64)
        >>> hidden = Heinsen2019Capsules(64, 16, variable_inputs=True)([capsules, scores], return_ports=True)
        >>> hidden["out"].shape, hidden["activations"].shape
        (torch.Size([2, 64, 16]), torch.Size([2, 64]))
        >>> classes = Heinsen2019Capsules(5, 16)([hidden["out"], hidden["activations"]], return_ports=True)
        >>> classes["activations"].shape
        torch.Size([2, 5])
    """

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "bias", "beta_use", "beta_ignore")
    ports: ClassVar[tuple[str, ...]] = ("out", "activations", "variances")

    def __init__(
        self,
        capsules: pydantic.PositiveInt | Literal["inputs"],
        dim: pydantic.PositiveInt,
        *,
        rows: pydantic.PositiveInt | None = None,
        iterations: pydantic.NonNegativeInt = 3,
        density: Density = "gaussian",
        variable_inputs: bool = False,
        variable_outputs: bool = False,
        single_beta: bool = False,
        routing: Control | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = None if capsules == "inputs" else capsules
        self.dim = dim
        self.rows = rows
        self.iterations = iterations
        self.density = density
        self.variable_inputs = variable_inputs
        self.variable_outputs = variable_outputs
        self.single_beta = single_beta
        self.routing = routing
        self.supports_masking = True
        if self.capsules is None and not variable_outputs:
            raise ArgumentError(f"{self.name}: with capsules 'inputs', 'variable_outputs' must be true")
        if self.capsules is None and routing == "random":
            raise ArgumentError(
                f"{self.name}: routing 'random' draws a coefficient for each output, so 'capsules' must be a number; "
                "received 'inputs'"
            )

    def _sizes(self, input_shape: Any) -> tuple[int | None, int, int]:
        """Return the number of inputs, their rows and their columns."""
        count, dim = listed_shape(self, capsules_and_activations(self, input_shape, takes=2))
        if count is None and not self.variable_inputs:
            raise ShapeError(
                f"{self.name}: each input has own matrices, so their number must be known; received {input_shape}. "
                "With 'variable_inputs' all share theirs"
            )
        if self.built and not self.variable_inputs:
            check_own_weights(self, count, self.kernel.shape[0], ", or set 'variable_inputs' to true")
        rows = self.rows or math.isqrt(dim)
        if dim % rows or (self.rows is None and rows**2 != dim):
            wanted = f"matrices of rows={rows}" if self.rows else "square matrices, or 'rows'"
            raise ShapeError(f"{self.name} needs {wanted}; received capsules of dimension {dim}")
        if self.dim % rows:
            raise ShapeError(f"{self.name}: outputs have the inputs' {rows} rows, which dim={self.dim} does not fill")
        return count, rows, dim // rows

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        count, rows, columns = self._sizes(input_shape)
        pairs = (1 if self.variable_inputs else count, 1 if self.variable_outputs else self.capsules)
        out_columns = self.dim // rows
        normal = keras.initializers.RandomNormal(stddev=1 / columns)
        regularizing = self.regularizing("kernel", [0, 2])
        self.kernel = self.add_weight((*pairs, columns, out_columns), normal, name="kernel", **regularizing)
        self.bias = self.add_weight((*pairs, rows, out_columns), "zeros", name="bias", **self.regularizing("bias", [0]))
        self.output_bias = self.coefficients = None
        if self.variable_outputs:
            shape = (rows, out_columns)
            self.output_bias = self.add_weight(shape, "zeros", name="output_bias", **self.regularizing("bias", []))
        self.beta_use = self.beta_ignore = self._beta("beta_use", pairs)
        if not self.single_beta:
            self.beta_ignore = self._beta("beta_ignore", pairs)
        if self.routing == "random":
            self.coefficients = self.add_weight(
                (pairs[0], self.capsules), random_shares, name="coefficients", trainable=False
            )

    def _beta(self, name: str, pairs: tuple[int | None, int | None]) -> Any:
        return self.add_weight(pairs, "zeros", name=name, **self.regularizing(name))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """`(B, I, D)` gives `(B, J, dim)`."""
        count, *_ = self._sizes(input_shape)
        return (input_shape[0][0], self.capsules or count, self.dim)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Outputs are all there."""

    def compute_output_spec(self, inputs: Any, return_ports: bool = False, mask: Any = None) -> Any:
        """Return symbolic outputs: one, or a map of all ports."""
        shape = self.compute_output_shape(keras.tree.map_structure(lambda tensor: tensor.shape, inputs))
        shapes = {port: shape[:-1] if port == "activations" else shape for port in self.ports}
        made = {port: keras.KerasTensor(each, dtype=self.compute_dtype) for port, each in shapes.items()}
        return made if return_ports else made["out"]

    def call(
        self, inputs: list[torch.Tensor], return_ports: bool = False, mask: Any = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """See the class."""
        inputs = without_padding(self, inputs, mask, hidden=-math.inf)
        capsules, scores = as_list(inputs[0]), numbers_as_list(inputs[1])
        _, rows, columns = self._sizes([tuple(each.shape) for each in inputs])
        outputs = self.capsules or capsules.shape[1]
        bias = self.bias.value
        if self.output_bias is not None:
            steps = torch.linspace(-1, 1, outputs, dtype=bias.dtype, device=bias.device)
            bias = bias + steps[:, None, None] * self.output_bias.value
        score, mean, variance = heinsen_2019_routing(
            scores,
            capsules.unflatten(-1, (rows, columns)),
            self.kernel.value,
            bias,
            self.beta_use.value,
            self.beta_ignore.value,
            iterations=max(1, self.iterations),
            density=self.density,
            **self._control(bias, outputs),
        )
        out = mean.flatten(2)
        return {"out": out, "activations": score, "variances": variance.flatten(2)} if return_ports else out

    def as_maps(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the list of capsules as a map of one position, and the sigmoids of the scores."""
        capsules, scores = as_list(inputs[0]), numbers_as_list(inputs[1])
        return [capsules[:, None, None], scores.sigmoid()[:, None, None]]

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        given = (self.kernel, self.bias, self.output_bias, self.beta_use, self.beta_ignore)
        weights = [None if weight is None else weight.value for weight in given]
        options = {"iterations": max(1, self.iterations), "density": self.density, "outputs": self.capsules}
        return list_record("heinsen_2019", weights, self.capsules, self.dim, options)

    def _control(self, like: torch.Tensor, outputs: int) -> dict[str, torch.Tensor]:
        if self.routing is None:
            return {}
        if self.coefficients is not None:
            return {"coefficients": self.coefficients.value}
        return {"coefficients": like.new_full((1, outputs), 1 / outputs)}
