"""Callbacks that write or show, where several processes train together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from encapkeras.distribution.processes import connected

_Class = TypeVar("_Class", bound=type[keras.callbacks.Callback])


def in_first_process(callback: _Class) -> _Class:
    """Decorate a class: its methods `on_...` run in the first process alone, so that all have the same callbacks."""
    for name, method in list(vars(callback).items()):
        if name.startswith("on_"):
            setattr(callback, name, _in_first(method))
    return callback


def _in_first(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def only_there(*arguments: Any, **named: Any) -> None:
        if connected().is_first:
            method(*arguments, **named)

    return only_there
