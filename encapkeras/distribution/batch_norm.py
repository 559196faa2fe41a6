"""Keras' own batch norms, with the statistics of a batch that several processes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import torch

from encapkeras.errors import DistributionError
from encapkeras.functional.batch_norm import join_moments
from encapkeras.functional.torch_support.shared_batch import SharedBatch, shared_batch
from encapkeras.keras_internals import layers_within, own_moments, reduction_axes, replace_moments


@contextlib.contextmanager
def synchronized(model: keras.Model, shared: SharedBatch | None) -> Iterator[None]:
    """Have a model's batch norms take statistics over the whole batch, if `shared` is given and wants that."""
    if shared is None or not shared.batch_norm:
        yield
        return
    layers = [layer for layer in layers_within(model) if isinstance(layer, keras.layers.BatchNormalization)]
    with replace_moments(layers, lambda layer: _moments_of(layer, shared)):
        yield


def _moments_of(layer: keras.layers.BatchNormalization, shared: SharedBatch) -> Any:
    def moments(inputs: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if shared_batch() is None:  # a call on the samples of this process alone
            return own_moments(layer, inputs, mask)
        if mask is not None:
            raise DistributionError(f"sync_batch_norm does not support '{layer.name}', whose input is masked")
        return join_moments(inputs, reduction_axes(layer), shared)

    return moments
