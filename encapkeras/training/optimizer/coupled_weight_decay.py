"""L2 in the gradient, for any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import torch

from encapkeras.torch_internals import add_all


@keras.saving.register_keras_serializable(package="encapkeras")
class CoupledWeightDecay(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Adds `rate * weight` to the gradient of every weight; another optimizer makes the step.

    This is the gradient of `rate / 2 * |weights|^2`, what `torch.optim` calls `weight_decay` in SGD and Adam; Keras'
    own `weight_decay` is decoupled instead. It comes before clipping. A weight without a gradient stays as it is.

    Args:
        inner_optimizer: The optimizer that makes the step.
        rate: Strength of the decay, a step.
        name: A name for Keras.

    Examples:
        >>> optimizer = CoupledWeightDecay(keras.optimizers.SGD(learning_rate=0.5), rate=0.1)
        >>> weight = keras.Variable([2.0])
        >>> optimizer.apply([torch.zeros(1)], [weight])
        >>> round(weight.value.item(), 6)
        1.9
    """

    def __init__(
        self, inner_optimizer: keras.optimizers.Optimizer, rate: float, name: str = "coupled_weight_decay"
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        # Not a subclass: Keras updates all weights at once only for its exact classes, ten times faster.
        self.inner_optimizer = inner_optimizer
        self.rate = rate

    @property
    def variables(self) -> list[keras.Variable]:
        """The inner optimizer's variables; this class has none."""
        return self.inner_optimizer.variables  # type: ignore[no-any-return]

    @property
    def iterations(self) -> Any:
        """How many steps were made."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the inner optimizer's variables."""
        self.inner_optimizer.build(variables)
        self.built = True

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]) -> None:
        """Make one step."""
        if not self.built:
            self.build(trainable_variables)
        pairs = [pair for pair in zip(grads, trainable_variables, strict=True) if pair[0] is not None]
        with torch.no_grad():
            decayed = iter(add_all([g for g, _ in pairs], [v.value for _, v in pairs], self.rate))
        grads = [None if gradient is None else next(decayed) for gradient in grads]
        self.inner_optimizer.apply(grads, trainable_variables)

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss as it is: the inner optimizer's loss scale does not apply here."""
        return loss

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Have the inner optimizer finish, for example put moving averages in place of weights."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner, "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> CoupledWeightDecay:
        """Make the optimizer of its configuration."""
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "inner_optimizer": inner})
