"""The logs of Keras as values that a table or a curve can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import torch


def single_values(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return logs with each number on its own: of a metric that has one for each class, `NAME_0`, `NAME_1` and so on.

    Examples:
        >>> single_values({"loss": 0.5, "f1_score": torch.tensor([0.25, 1.0])})
        {'loss': 0.5, 'f1_score_0': 0.25, 'f1_score_1': 1.0}
    """
    values: dict[str, Any] = {}
    for name, value in (logs or {}).items():
        if not isinstance(value, torch.Tensor | np.ndarray | list | tuple):
            values[name] = value
            continue
        numbers = keras.ops.convert_to_numpy(value)
        for place in np.ndindex(numbers.shape):
            values["_".join([name, *map(str, place)])] = numbers[place].item()
    return values
