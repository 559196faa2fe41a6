"""Keras' own batch norms, with the statistics of a batch that processes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import torch

from encapkeras.errors import DistributionError
from encapkeras.functional.batch_norm import joined_moments
from encapkeras.functional.torch_support.shared_batch import SharedBatch, shared_batch
from encapkeras.keras_internals import layers_within, own_moments, reduction_axes, replaced_moments


@contextlib.contextmanager
def synchronized(model: keras.Model, shared: SharedBatch | None) -> Iterator[None]:
    """Has the `keras.layers.BatchNormalization` of a model take their statistics over the whole batch.

    Args:
        model: Also layers within layers.
        shared: Who has how much of the batch; nothing changes if None, or if its batch norms are not shared.

    Raises:
        DistributionError: A layer masks its input: the masks of the other processes are not known.
    """
    if shared is None or not shared.batch_norm:
        yield
        return
    layers = [layer for layer in layers_within(model) if isinstance(layer, keras.layers.BatchNormalization)]
    with replaced_moments(layers, lambda layer: _moments_of(layer, shared)):
        yield


def _moments_of(layer: keras.layers.BatchNormalization, shared: SharedBatch) -> Any:
    def moments(inputs: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if shared_batch() is None:  # somebody looks at a process' own samples
            return own_moments(layer, inputs, mask)
        if mask is not None:
            raise DistributionError(f"sync_batch_norm cannot be had of '{layer.name}', whose input is masked")
        return joined_moments(inputs, reduction_axes(layer), shared)

    return moments
