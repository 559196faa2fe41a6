"""The norm of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import torch
from torch.nn.utils import get_total_norm


class GradientNorm:
    """Gathers the global norm of each step's gradients, before clipping, without waiting for a GPU.

    `|g| = sqrt(sum of the squares of all gradients)`, of all trainable weights together. Steps whose norm is not
    finite, as those that mixed precision skips, do not count in the mean.

    Example:
        >>> weight = keras.Variable([3.0, 4.0])
        >>> (weight.value ** 2).sum().backward()
        >>> norm = GradientNorm()
        >>> norm.add([weight], torch.tensor(1.0))
        >>> norm.state
        (10.0, 10.0, 1.0)
    """

    def __init__(self) -> None:
        self._sum = self._last = self._steps = torch.zeros((), dtype=torch.float64)

    def add(self, weights: Sequence[keras.Variable], scale: torch.Tensor) -> None:
        """Adds a step.

        Args:
            weights: Weights with the gradients of the step.
            scale: What the loss was multiplied by before its gradients were taken.
        """
        gradients = [weight.value.grad for weight in weights if weight.value.grad is not None]
        if not gradients:
            return
        norm = get_total_norm(gradients).detach().double() / scale
        finite = torch.isfinite(norm)
        self._last = norm
        self._sum = self._sum.to(norm.device) + norm.where(finite, 0)
        self._steps = self._steps.to(norm.device) + finite

    @property
    def state(self) -> tuple[float, float, float]:
        """The sum of the norms, the last one, and how many there are; waits for the GPU."""
        return self._sum.item(), self._last.item(), self._steps.item()

    @state.setter
    def state(self, state: tuple[float, float, float]) -> None:
        self._sum, self._last, self._steps = (torch.tensor(number, dtype=torch.float64) for number in state)

    def figures(self) -> dict[str, float]:
        """The mean and the last norm, as TensorBoard's scalars; none before the first step."""
        total, last, steps = self.state
        return {"gradient_norm/mean": total / steps, "gradient_norm/last": last} if steps else {}
