"""The attributes of a callback, as plain values and tensors that a resume state can hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import torch

from encapkeras.errors import TrainingError
from encapkeras.keras_internals import CALLBACK_ATTRIBUTES

KeptTypes = Mapping[str, tuple[type, ...]]  # a `KEPT` that says which types each attribute may have
_NUMBER = (int, float, np.number)
_PLAIN = (bool, int, float, str, type(None), torch.Tensor)


_KEEPING = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau, keras.callbacks.ModelCheckpoint)


class _NotPlain(Exception):
    """A value cannot be saved."""


def callback_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes that `KEPT` names; without it, all plain ones but the constructor's arguments."""
    if hasattr(callback, "KEPT"):
        return {name: _pack(getattr(callback, name)) for name in callback.KEPT}
    state = {}
    arguments = inspect.signature(type(callback)).parameters
    for name, value in vars(callback).items():
        if name not in CALLBACK_ATTRIBUTES and name not in arguments:
            try:
                state[name] = _pack(value)
            except _NotPlain:
                continue
    return state


def keeps_something(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback says that it has something to restore, or is one of Keras' that has."""
    named = getattr(callback, "KEPT", ()) or getattr(callback, "appends_to", ())
    return bool(named) or isinstance(callback, _KEEPING)


def set_callback_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Set attributes to what `callback_state` returned for a callback of the same class; refuse all others."""
    values = {name: _unpack(value) for name, value in state.items()}
    for name, value in values.items():
        if not _is_kept(callback, name, value):
            raise TrainingError(
                f"the resume state is damaged: it sets '{name}' of {type(callback).__name__} to "
                f"{type(value).__name__}. Train in another folder, or resume from a state that you trust."
            )
    for name, value in values.items():
        setattr(callback, name, value)


def _is_kept(callback: keras.callbacks.Callback, name: str, value: Any) -> bool:
    """Whether a state may hold such an attribute: a state from elsewhere must not choose where callbacks write."""
    kept = getattr(callback, "KEPT", None)
    if kept is not None:
        return name in kept and (not isinstance(kept, Mapping) or isinstance(value, kept[name]))
    of_class = getattr(type(callback), name, None)
    if type(callback).__module__.startswith("keras."):
        now = getattr(callback, name, None)
        if isinstance(value, str) != isinstance(now, str) or (
            isinstance(now, _NUMBER) and not isinstance(value, _NUMBER)
        ):
            return False
    others = (*CALLBACK_ATTRIBUTES, *inspect.signature(type(callback)).parameters, "KEPT", "appends_to")
    return name not in others and not callable(of_class) and not isinstance(of_class, property)


def _pack(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": torch.from_numpy(value.copy())}
    if type(value) in (list, tuple):
        return type(value)(map(_pack, value))
    if type(value) is dict:
        return {"map": [(_pack(key), _pack(entry)) for key, entry in value.items()]}
    raise _NotPlain


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if "array" in value:
            return value["array"].numpy()
        return {_unpack(key): _unpack(entry) for key, entry in value["map"]}
    if type(value) in (list, tuple):
        return type(value)(map(_unpack, value))
    return value
