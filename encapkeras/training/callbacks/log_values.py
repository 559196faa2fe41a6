"""The logs of Keras as values that a table or a curve can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch


def single_values(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return logs with each number on its own: of a metric that has one for each class, `NAME_0`, `NAME_1` and so on.

    Examples:
        >>> single_values({"loss": 0.5, "f1_score": torch.tensor([0.25, 1.0])})
        {'loss': 0.5, 'f1_score_0': 0.25, 'f1_score_1': 1.0}
    """
    return dict(pair for name, value in (logs or {}).items() for pair in _values_within(name, value))


def single_numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return those of `single_values` that are numbers: callbacks may log texts.

    Examples:
        >>> single_numbers({"loss": np.float32(0.5), "f1_score": [0.25, 1.0], "phase": "warm-up"})
        {'loss': 0.5, 'f1_score_0': 0.25, 'f1_score_1': 1.0}
    """
    return {name: float(value) for name, value in single_values(logs).items() if isinstance(value, Real)}


def _values_within(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor | np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        yield name, value
        return
    for place, part in enumerate(value):
        yield from _values_within(f"{name}_{place}", part)
