"""Images from 0 to 1, which every network takes: bytes are divided by 255, numbers far beyond get a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import torch

from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.model.build import BuiltGraph

IMAGE_RANGE = (0.0, 1.0)

_FAR_BEYOND = 10.0  # images from -1 to 1, and those with a mean of 0 and a deviation of 1, are somebody's choice
_OWN_RANGE = (keras.layers.Rescaling, keras.layers.Normalization)  # which take images in other units


class _Input(NamedTuple):
    name: str
    dtype: torch.dtype
    is_image: bool  # in the range


class ImageRange:
    """The inputs of one model; `unseen` is whether the next batch is looked at."""

    def __init__(self, model: str, inputs: Sequence[keras.KerasTensor], graph: BuiltGraph) -> None:
        own = [graph.called_on[node] for node, layer in graph.layers.items() if isinstance(layer, _OWN_RANGE)]
        others = {reference.node for taken in own for reference in taken}
        self._model = model
        self._inputs = [
            _Input(each.name, getattr(torch, each.dtype), len(each.shape) == 4 and each.name not in others)
            for each in inputs
        ]
        self._warned = False
        self.unseen = True

    def applied(self, inputs: Any) -> Any:
        """The inputs, with images of bytes as floats; warns, once, about a first batch that is not in the range."""
        arrays = keras.tree.flatten(inputs)
        tensors = [keras.ops.convert_to_tensor(each) if isinstance(each, np.ndarray) else each for each in arrays]
        if len(tensors) != len(self._inputs) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return inputs
        pairs = list(zip(tensors, self._inputs, strict=True))
        if self.unseen and not self._warned and all(has_values(tensor) and tensor.numel() for tensor in tensors):
            self.unseen = False
            for tensor, declared in pairs:
                self._check(tensor, declared)
        images = [
            tensor.to(declared.dtype) / 255 if declared.is_image and tensor.dtype == torch.uint8 else tensor
            for tensor, declared in pairs
        ]
        return keras.tree.pack_sequence_as(inputs, images)

    def _check(self, image: torch.Tensor, declared: _Input) -> None:
        if not declared.is_image or image.dtype == torch.bool:
            return
        low, high = (bound.item() for bound in image.detach().aminmax())
        if image.dtype == torch.uint8 and (low, high) == (0, 1):
            problem = "are bytes (uint8) of only 0 and 1, which the model divides by 255. Multiply them by 255."
        elif image.dtype != torch.uint8 and max(-low, high) > _FAR_BEYOND:
            problem = (
                f"range from {low:g} to {high:g}. Divide them by what white is, such as 255, or give bytes (uint8), "
                "which the model divides by 255."
            )
        else:
            return
        self._warned = True
        warnings.warn(
            f"model '{self._model}' takes images with values from 0 to 1; those of '{declared.name}' {problem}",
            stacklevel=3,
        )
