"""One weight of ours and the tensor of the original that it is."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import torch


@dataclass(frozen=True)
class OriginalTensor:
    """A tensor of the original, by its name there, and the weight of ours that holds its numbers.

    The two differ in the order of axes and in shape, never in numbers.

    Args:
        name: Its name in the original's state dict.
        variable: The Keras variable.
        shape: Its shape in the original.
        axes: Our axes in the original's order.
    """

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
        """The tensor for a weight; without `axes` in our order, without `shape` as the axes make it."""
        axes = axes or tuple(range(len(variable.shape)))
        return cls(name, variable, shape or tuple(variable.shape[axis] for axis in axes), axes)

    def from_ours(self) -> torch.Tensor:
        """A copy of our numbers in the original's layout."""
        value: torch.Tensor = self.variable.value.detach()
        return value.permute(self.axes).reshape(self.shape).clone(memory_format=torch.contiguous_format)

    def to_ours(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the original's shape in our layout."""
        permuted = tensor.reshape([self.variable.shape[axis] for axis in self.axes])
        return permuted.permute([self.axes.index(axis) for axis in range(len(self.axes))])
