"""The moving average of the weights in their place, for as long as it is wanted there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import torch


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Puts the optimizer's moving average in place of the trainable weights, and these back afterwards, bit for bit.

    Nothing happens where the optimizer keeps none (`use_ema` of Keras' optimizers, `train.ema` of a spec), or has made
    no step yet. Moving statistics of batch norms are not averaged: they are a moving average already. Keras itself
    leaves the average in place when `fit` ends.

    Args:
        model: A model; if it has no optimizer, nothing happens.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(use_ema=True, ema_momentum=0.5), loss="mse")
        >>> ones = keras.ops.ones((1, 1))
        >>> losses = [model.train_on_batch(ones, 5 * ones) for _ in range(3)]
        >>> before = model.get_weights()[0]
        >>> with averaged(model):
        ...     bool(model.get_weights()[0] < before)  # the average is behind a weight that grows
        True
        >>> bool(model.get_weights()[0] == before)
        True
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if not _has_average(optimizer):
        yield
        return
    weights = model.trainable_weights
    kept = [weight.value.detach().clone() for weight in weights]
    optimizer.finalize_variable_values(weights)  # what Keras calls at the end of fit: average -> weights
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.value.copy_(value)


def _has_average(optimizer: keras.optimizers.Optimizer | None) -> bool:
    """Whether there is an average; an optimizer around another one leaves it to that one."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return _has_average(inner)
    # before the first step the average is all zeros
    return optimizer is not None and bool(optimizer.use_ema) and int(optimizer.iterations) > 0
