"""Moving means and variances take nothing from a batch that would spoil them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import keras
import torch

from encapkeras.functional.batch_norm import restored_by_caller
from encapkeras.keras_internals import statistics_within
from encapkeras.torch_internals import copy_all


class MovingStatistics:
    """What the layers of a built model keep of batches, such as the means of batch norms; those of plugins too."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    @functools.cached_property
    def _variables(self) -> list[keras.Variable]:
        within = [variable for layer in self._model.layers for variable in statistics_within(layer)]
        return list({id(variable): variable for variable in within}.values())

    @contextlib.contextmanager
    def kept_if_not_finite(self) -> Iterator[None]:
        """Restore all if one is not finite after the block, without waiting for a GPU."""
        values = [variable.value.detach() for variable in self._variables]
        if not values:
            yield
            return
        before = _joined(values)
        with restored_by_caller():
            yield
        after = _joined(values)
        kept = torch.where(after.isfinite().all(), after, before).split([value.numel() for value in values])
        # `.data`: batch norms have noted these tensors for their backward pass, which reads them only in prediction.
        copy_all([value.data for value in values], [k.view(v.shape) for k, v in zip(kept, values, strict=True)])


def _joined(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in values])
