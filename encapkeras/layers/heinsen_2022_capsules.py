"""Capsules by Heinsen's second routing as a Keras layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import VectorRoutingWeights, heinsen_2022_routing
from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.layers.initializers import random_shares
from encapkeras.layers.registry import CapsuleLayer, Shape, check_own_weights, register_layer
from encapkeras.layers.routing_inputs import Control, as_list, capsules_and_activations, listed_shape, numbers_as_list
from encapkeras.layers.window_layer import WindowRecord, list_record


@register_layer("heinsen_2022_capsules")
class Heinsen2022Capsules(CapsuleLayer):
    """Capsules by Heinsen's routing of 2022: vectors, credit assigned to each of them, and no votes.

    With `x'_i = x_i / sqrt(I)` and `f_i = sigmoid(active_kernel_i . x'_i + active_bias_i)`: `R_ij` is 1/J, later
    `softmax over the outputs j of log sigmoid(score_scale_ij x_i . x^_j + score_bias_ij)`, where `x^_j` is what output
    j predicts of the inputs, by `prediction_kernel`, `prediction_scale` and `prediction_bias`. `credit_ij = use_ij f_i
    R_ij - ignore_ij f_i (1 - R_ij)`, and `y_j = sum_i credit_ij vote_ij` with `vote_ij = (vote_scale_j x'_i)
    vote_kernel + vote_bias_j`. Memory grows with I J alone. Weights start as published.

    Args:
        capsules: Number J of outputs; for a classifier, the number of classes.
        dim: Dimension E of the outputs; 1 for scores.
        iterations: Number of iterations; 0 and 1 are no routing, all `R_ij` are 1/J.
        normalize: Whether the outputs go through a layer norm without weights; those of `dim` 1 never do.
        variable_inputs: Whether all inputs share their weights, so that there may be any number; what it is worth to
            use and to ignore one is then a linear function of it.
        routing: If given, a control in place of the routing: `uniform`: all `R_ij` are 1/J; `random`: they are drawn
            once, the same in every model; with `variable_inputs` for each output.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `scale`, `bias` and `beta`, each for all
            weights whose names end so, and `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras
            layer.

    Call arguments:
        inputs: Capsules `(B, I, D)`; or a map `(B, H, W, N, D)`, listed in the order (type, row, column).
        return_ports: Whether to return all ports: `out` and `credit`.
        mask: True where there is an input, `(B, I)`, as Keras masks a sequence; only these count, in `sqrt(I)` too. Or
            true where an output sees an input, `(B, I, J)`.

    Returns:
        Outputs `(B, J, E)`. Or a map of the ports' tensors: `credit` is `(B, I, J)`, of which
        `encapkeras.functional.end_to_end_credit` makes that of a stack.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not capsules, or of unknown number without `variable_inputs`.

    Examples:
        >>> import torch
        >>> hidden = Heinsen2022Capsules(64, 128, variable_inputs=True)(torch.randn(2, 500, 256))
        >>> hidden.shape
        torch.Size([2, 64, 128])
        >>> ports = Heinsen2022Capsules(10, 1)(hidden, return_ports=True)
        >>> ports["out"].shape, ports["credit"].shape
        (torch.Size([2, 10, 1]), torch.Size([2, 64, 10]))
    """

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "scale", "bias", "beta")
    ports: ClassVar[tuple[str, ...]] = ("out", "credit")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.NonNegativeInt = 2,
        normalize: bool = True,
        variable_inputs: bool = False,
        routing: Control | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.dim = dim
        self.iterations = iterations
        self.normalize = normalize
        self.variable_inputs = variable_inputs
        self.routing = routing
        self.supports_masking = True

    def _sizes(self, input_shape: Any) -> tuple[int | None, int]:
        """Return number and dimension of the inputs."""
        count, dim = listed_shape(self, capsules_and_activations(self, input_shape, takes=1))
        if count is None and not self.variable_inputs:
            raise ShapeError(
                f"{self.name}: each input has own weights, so their number must be known; received {input_shape}. With "
                "'variable_inputs' all share theirs"
            )
        if self.built and dim != self.active_kernel.shape[1]:
            built = self.active_kernel.shape[1]
            raise ShapeError(f"{self.name} was built for capsules of dimension {built}; received shape {input_shape}")
        if self.built and not self.variable_inputs:
            check_own_weights(self, count, self.active_kernel.shape[0], ", or set 'variable_inputs' to true")
        return count, dim

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        count, dim = self._sizes(input_shape)
        inputs = 1 if self.variable_inputs else count
        side = math.sqrt(dim)
        self.active_kernel = self._normal("active_kernel", (inputs, dim), 2 / side, inputs=[1])
        self.active_bias = self._weight("active_bias", (inputs,))
        self.vote_scale = self._normal("vote_scale", (self.capsules, dim), 1)
        self.vote_kernel = self._normal("vote_kernel", (dim, self.dim), 2 / side)
        self.vote_bias = self._weight("vote_bias", (self.capsules, self.dim))
        self._add_betas(inputs, dim)
        self.prediction: list[Any] = []
        if self.routing is None and self.iterations > 1:
            self.prediction = [
                self._normal("prediction_kernel", (self.dim, dim), 1 / math.sqrt(self.dim)),
                self._normal("prediction_scale", (self.capsules, dim), 1),
                self._weight("prediction_bias", (self.capsules, dim)),
                self._normal("score_scale", (inputs, self.capsules), 1 / side),
                self._weight("score_bias", (inputs, self.capsules)),
            ]
        self.coefficients = None
        if self.routing == "random":
            shape = (inputs, self.capsules)
            self.coefficients = self.add_weight(shape, random_shares, name="coefficients", trainable=False)

    def _add_betas(self, inputs: int | None, dim: int) -> None:
        names = ("use", "ignore")
        if not self.variable_inputs:
            self.betas = [[self._normal(f"{name}_beta", (inputs, self.capsules), 1)] for name in names]
            return
        uniform = keras.initializers.RandomUniform(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        shapes = {"kernel": (dim, self.capsules), "bias": (self.capsules,)}
        self.betas = [[self._weight(f"{name}_{part}", shapes[part], uniform) for part in shapes] for name in names]

    def _normal(
        self, name: str, shape: tuple[int | None, ...], deviation: float, inputs: list[int] | None = None
    ) -> Any:
        return self._weight(name, shape, keras.initializers.RandomNormal(stddev=deviation), inputs)

    def _weight(
        self, name: str, shape: tuple[int | None, ...], initializer: Any = "zeros", inputs: list[int] | None = None
    ) -> Any:
        kind = name.rpartition("_")[2]
        return self.add_weight(shape, initializer, name=name, **self.regularizing(kind, inputs))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """`(B, I, D)` gives `(B, J, E)`."""
        self._sizes(input_shape)
        return (input_shape[0], self.capsules, self.dim)

    def compute_output_spec(self, inputs: Any, return_ports: bool = False, mask: Any = None) -> Any:
        """Return symbolic outputs: one, or a map of all ports."""
        shape = self.compute_output_shape(inputs.shape)
        credit = (shape[0], self._sizes(inputs.shape)[0], self.capsules)
        shapes = {"out": shape, "credit": credit}
        made = {port: keras.KerasTensor(each, dtype=self.compute_dtype) for port, each in shapes.items()}
        return made if return_ports else made["out"]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Outputs are all there."""

    def call(
        self, inputs: torch.Tensor, return_ports: bool = False, mask: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """See the class."""
        self._sizes(tuple(inputs.shape))
        listed = as_list(inputs)
        hidden = self._hidden(listed, mask)
        if "length" in hidden:  # padding may hold anything
            listed = listed.masked_fill(hidden["mask"][:, :, :1], 0)
        weights = self._routing_weights()
        use, ignore = self._beta_values(listed)
        out, credit = heinsen_2022_routing(
            listed,
            weights,
            use,
            ignore,
            iterations=max(1, self.iterations),
            normalize=self.normalize,
            **hidden,
            **self._control(weights.active_weight),
        )
        return {"out": out, "credit": credit} if return_ports else out

    def _routing_weights(self) -> VectorRoutingWeights:
        active = [self.active_kernel, self.active_bias, self.vote_scale, self.vote_kernel, self.vote_bias]
        weights = [weight.value for weight in (*active, *self.prediction)]
        return VectorRoutingWeights(*weights, *([] if self.prediction else self._no_prediction(weights[3])))

    def as_maps(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the list of capsules as a map of one position, and 1 where there is an input."""
        capsules, *mask = inputs
        listed = as_list(capsules)
        present = numbers_as_list(mask[0]).to(listed) if mask else torch.ones_like(listed[..., 0])
        return [listed[:, None, None], present[:, None, None]]

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options."""
        betas = [tuple(weight.value for weight in parts) for parts in self.betas]
        options = {"iterations": max(1, self.iterations), "normalize": self.normalize}
        return list_record("heinsen_2022", [self._routing_weights(), *betas], self.capsules, self.dim, options)

    def _no_prediction(self, vote_kernel: torch.Tensor) -> list[torch.Tensor]:
        """Return weights that one iteration does not use."""
        dim, out_dim = vote_kernel.shape
        outputs = self.capsules
        shapes = [(out_dim, dim), (outputs, dim), (outputs, dim), (1, outputs), (1, outputs)]
        return [vote_kernel.new_zeros(shape) for shape in shapes]

    def _beta_values(self, listed: torch.Tensor) -> list[torch.Tensor]:
        """Return what it is worth to use an input, and what it costs to ignore it."""
        if not self.variable_inputs:
            return [beta.value for (beta,) in self.betas]
        with full_precision(listed, self.betas[0][0].value) as wide:
            return [wide(listed) @ wide(kernel.value) + wide(bias.value) for kernel, bias in self.betas]

    def _hidden(self, listed: torch.Tensor, mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the function's mask, which is true where an input is hidden, and the number of inputs."""
        if mask is None:
            return {}
        seen = numbers_as_list(keras.ops.convert_to_tensor(mask)).bool()
        pairs = (*listed.shape[:2], self.capsules)
        if tuple(seen.shape) not in (pairs[:2], pairs):
            raise ShapeError(f"{self.name}: mask must be {pairs[:2]} or {pairs}; received {tuple(seen.shape)}")
        if seen.dim() == 3:
            return {"mask": ~seen}
        return {"mask": ~seen.unsqueeze(2).expand(pairs), "length": seen.sum(1)}

    def _control(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.routing is None:
            return {}
        if self.coefficients is not None:
            return {"coefficients": self.coefficients.value}
        return {"coefficients": like.new_full((1, self.capsules), 1 / self.capsules)}
