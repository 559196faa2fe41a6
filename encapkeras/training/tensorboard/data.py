"""Validation data in any form that `fit` takes, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from encapkeras.errors import ArgumentError
from encapkeras.training.random_state import random_state, set_random_state
from encapkeras.validation import shown

BATCH = 128  # images at once, of arrays


def batches_of(data: Any) -> Iterator[tuple[Any, Any]]:
    """The images and labels of validation data, in batches.

    Args:
        data: Arrays or tensors `(images, labels)`, a `keras.utils.PyDataset`, or anything that gives such pairs each
            time that it is gone through, such as a `torch.utils.data.DataLoader`.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> [len(labels) for _, labels in batches_of((np.zeros((200, 4, 4, 1)), np.zeros(200, int)))]
        [128, 72]
    """
    for batch in _batches(data):
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise _no_data(f"it gives {shown(type(batch))}")
        yield batch[0], batch[1]


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, tuple):
        if len(data) < 2 or not all(hasattr(part, "__len__") for part in data[:2]) or len(data[0]) != len(data[1]):
            raise _no_data("the tuple does not hold as many labels as images")
        starts = range(0, len(data[0]), BATCH)
        return ((data[0][start : start + BATCH], data[1][start : start + BATCH]) for start in starts)
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(len(data)))
    if isinstance(data, Iterator) or not isinstance(data, Iterable) or isinstance(data, np.ndarray):
        raise _no_data(f"received {shown(type(data))}")
    return data


def _no_data(why: str) -> ArgumentError:
    return ArgumentError(
        "data must be arrays (images, labels), a torch DataLoader, a keras.utils.PyDataset, or another thing that "
        f"gives such pairs each time that it is gone through: {why}"
    )


@contextlib.contextmanager
def drawing_nothing() -> Iterator[None]:
    """Puts the random generators back to where they were: a DataLoader draws from them, even if it does not shuffle."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
