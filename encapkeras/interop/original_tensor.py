"""A weight of ours as a tensor of the original."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import torch


@dataclass(frozen=True)
class OriginalTensor:
    """A tensor of the original and our variable with the same numbers; `axes` are ours in the original's order."""

    name: str
    variable: keras.Variable
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def of(
        cls,
        name: str,
        variable: keras.Variable,
        *,
        shape: tuple[int, ...] | None = None,
        axes: tuple[int, ...] | None = None,
    ) -> OriginalTensor:
        """Make it for a variable; `axes` are by default in our order, `shape` follows from them."""
        axes = axes or tuple(range(len(variable.shape)))
        return cls(name, variable, shape or tuple(variable.shape[axis] for axis in axes), axes)

    def from_ours(self) -> torch.Tensor:
        """Return a copy of our numbers in the original's layout."""
        value: torch.Tensor = self.variable.value.detach()
        return value.permute(self.axes).reshape(self.shape).clone(memory_format=torch.contiguous_format)

    def to_ours(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the original's shape in our layout."""
        permuted = tensor.reshape([self.variable.shape[axis] for axis in self.axes])
        return permuted.permute([self.axes.index(axis) for axis in range(len(self.axes))])
