"""What a callback remembers, as plain values and tensors that can be saved."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import torch

from encapkeras.keras_internals import CALLBACK_ATTRIBUTES

_PLAIN = (bool, int, float, str, type(None), torch.Tensor)


class _NotPlain(Exception):
    """A value cannot be saved."""


def kept_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """The attributes of a callback that a training which goes on needs.

    Args:
        callback: With `KEPT`, a tuple of names, these; else all whose values are plain: numbers, texts, None, arrays,
            and lists, tuples and maps of these, but for what it was made with.

    Example:
        >>> stopping = keras.callbacks.EarlyStopping(patience=3)
        >>> stopping.on_train_begin()
        >>> kept_attributes(stopping)["wait"]
        0
    """
    if hasattr(callback, "KEPT"):
        return {name: _packed(getattr(callback, name)) for name in callback.KEPT}
    kept = {}
    made_with = inspect.signature(type(callback)).parameters
    for name, value in vars(callback).items():
        if name not in CALLBACK_ATTRIBUTES and name not in made_with:
            try:
                kept[name] = _packed(value)
            except _NotPlain:
                continue
    return kept


def set_kept_attributes(callback: keras.callbacks.Callback, kept: dict[str, Any]) -> None:
    """Puts attributes back.

    Args:
        callback: A callback of the same class.
        kept: What `kept_attributes` gave.
    """
    for name, value in kept.items():
        setattr(callback, name, _unpacked(value))


def _packed(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": torch.from_numpy(value.copy())}
    if type(value) in (list, tuple):
        return type(value)(map(_packed, value))
    if type(value) is dict:
        return {"map": [(_packed(key), _packed(entry)) for key, entry in value.items()]}
    raise _NotPlain


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if "array" in value:
            return value["array"].numpy()
        return {_unpacked(key): _unpacked(entry) for key, entry in value["map"]}
    if type(value) in (list, tuple):
        return type(value)(map(_unpacked, value))
    return value
