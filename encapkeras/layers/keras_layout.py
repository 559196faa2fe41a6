"""Keras' regularizers and constraints on weights that are not in Keras' layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import ShapeError


class InKerasLayout:
    """A regularizer or constraint that sees a weight in Keras' layout: see `CapsuleLayer.regularizing`."""

    def __init__(self, function: Callable[[Any], Any], inputs: Sequence[int] | None = None) -> None:
        self._function = function
        self._inputs = inputs

    def __call__(self, weight: Any) -> Any:
        """Return a regularizer's number, or the weight as a constraint changes it."""
        tensor: torch.Tensor = keras.ops.convert_to_tensor(weight)
        if self._inputs is None:
            return self._applied(tensor, weight)
        inputs, first = tuple(self._inputs), tuple(range(len(self._inputs)))
        outputs = [size for axis, size in enumerate(tensor.shape) if axis not in inputs]
        made = self._applied(tensor.movedim(inputs, first).flatten(len(first)), weight)
        return made.unflatten(-1, outputs).movedim(first, inputs) if made.dim() else made

    def _applied(self, tensor: torch.Tensor, weight: Any) -> Any:
        try:
            return self._function(tensor)
        except (IndexError, RuntimeError, ValueError) as error:
            name = getattr(self._function, "__name__", type(self._function).__name__)
            raise ShapeError(
                f"{name} does not fit weight '{weight.path}', whose shape in Keras' layout is {tuple(tensor.shape)}: "
                f"{error}"
            ) from error
