"""The norm of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import torch
from torch.nn.utils import get_total_norm


class GradientNorm:
    """The mean and the last of each step's finite gradient norms, before clipping, without waiting for a GPU."""

    def __init__(self) -> None:
        self._sum = self._last = self._steps = torch.zeros((), dtype=torch.float64)

    def add(self, weights: Sequence[keras.Variable], scale: torch.Tensor) -> None:
        """Add a step: weights with their gradients, and the factor of its loss in them."""
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
        """The sum of the norms, the last one, and how many there are; this waits for the GPU."""
        return self._sum.item(), self._last.item(), self._steps.item()

    @state.setter
    def state(self, state: tuple[float, float, float]) -> None:
        self._sum, self._last, self._steps = (torch.tensor(number, dtype=torch.float64) for number in state)

    def scalars(self) -> dict[str, float]:
        """Return the mean and the last norm, as TensorBoard's scalars; none before the first step."""
        total, last, steps = self.state
        return {"gradient_norm/mean": total / steps, "gradient_norm/last": last} if steps else {}
