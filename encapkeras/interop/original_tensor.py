"""A weight of ours as a tensor of the original."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import torch


@dataclass(frozen=True)
class OriginalTensor:
    """A tensor of the original and our variable with the same numbers.

    The variable is viewed with the sizes `view`, whose `axes` in the original's order make the original's `shape`.
    """

    name: str
    variable: keras.Variable
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    view: tuple[int, ...]

    @classmethod
    def of(
        cls,
        name: str,
        variable: keras.Variable,
        *,
        shape: tuple[int, ...] | None = None,
        axes: tuple[int, ...] | None = None,
        view: tuple[int, ...] | None = None,
    ) -> OriginalTensor:
        """Make it for a variable; by default, `view` is its shape, `axes` are in our order, `shape` is theirs."""
        view = view or tuple(variable.shape)
        axes = axes or tuple(range(len(view)))
        return cls(name, variable, shape or tuple(view[axis] for axis in axes), axes, view)

    def from_ours(self) -> torch.Tensor:
        """Return a copy of our numbers in the original's layout."""
        value: torch.Tensor = self.variable.value.detach()
        theirs = value.reshape(self.view).permute(self.axes).reshape(self.shape)
        return theirs.clone(memory_format=torch.contiguous_format)

    def to_ours(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the original's shape in our layout."""
        permuted = tensor.reshape([self.view[axis] for axis in self.axes])
        ours = permuted.permute([self.axes.index(axis) for axis in range(len(self.axes))])
        return ours.reshape(tuple(self.variable.shape))

    def assign(self, tensor: torch.Tensor) -> None:
        """Set our numbers to a tensor of the original's shape."""
        self.variable.assign(self.to_ours(tensor))


@dataclass(frozen=True)
class JoinedTensor(OriginalTensor):
    """A tensor of the original whose first axis has those of several of our variables, one behind the other.

    The fields besides the shape are those of the first part.
    """

    parts: tuple[OriginalTensor, ...]

    @classmethod
    def join(cls, name: str, *parts: OriginalTensor) -> JoinedTensor:
        """Make it of tensors that are alike but for the length of their first axis."""
        first = parts[0]
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return cls(name, first.variable, shape, first.axes, first.view, parts)

    def from_ours(self) -> torch.Tensor:
        """Return a copy of our numbers in the original's layout."""
        return torch.cat([part.from_ours() for part in self.parts])

    def assign(self, tensor: torch.Tensor) -> None:
        """Set our numbers to a tensor of the original's shape."""
        pieces = tensor.split([part.shape[0] for part in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            part.assign(piece)
