"""The moving average of the weights in place of the weights, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import torch


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Put the optimizer's moving average in place of the trainable weights, and these back afterwards, bit for bit.

    Nothing happens without an optimizer, where it has no average (`use_ema` of Keras' optimizers, `train.ema` of a
    spec), or has made no step yet. Moving statistics of batch norms are a moving average already, and stay. Keras
    itself leaves the average in place when `fit` ends.

    Examples:
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
    weights, before = model.trainable_weights, put_average(model)
    try:
        yield
    finally:
        put_back(weights, before)


def put_average(model: keras.Model) -> list[torch.Tensor]:
    """Put the average in place of the trainable weights; return what these were, nothing if there is no average."""
    optimizer: Any = getattr(model, "optimizer", None)
    if not keeps_average(optimizer) or not int(optimizer.iterations):  # before the first step it is all zeros
        return []
    weights = model.trainable_weights
    before = [weight.value.detach().clone() for weight in weights]
    optimizer.finalize_variable_values(weights)  # what Keras calls at the end of fit: average -> weights
    return before


@contextlib.contextmanager
def replaced(weights: Sequence[keras.Variable], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """Put values in place of weights, and these back afterwards, bit for bit; without values they only are put back."""
    before = [weight.value.detach().clone() for weight in weights]
    put_back(weights, values)
    try:
        yield
    finally:
        put_back(weights, before)


def keeps_average(optimizer: Any) -> bool:
    """Whether an optimizer, or the one inside it, has a moving average of the weights."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return keeps_average(inner)
    return optimizer is not None and bool(optimizer.use_ema)


def put_back(weights: Sequence[keras.Variable], values: Sequence[torch.Tensor]) -> None:
    """Set weights to values; without values they stay."""
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=bool(values)):
            weight.value.copy_(value)
