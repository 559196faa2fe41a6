"""Validation of the averaged weights."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from encapkeras.training.optimizer.averaged_weights import averaged


class ValidateAverage(keras.callbacks.Callback):  # type: ignore[misc]
    """Puts the optimizer's moving average in place of the weights while Keras validates, and these back afterwards.

    So `val_accuracy` and `val_loss` are of what `Checkpoints` saves. The training itself is the same as without: see
    `encapkeras.training.averaged`. Without `use_ema` nothing changes.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.Adam(use_ema=True), loss="mse")
        >>> ones = keras.ops.ones((4, 1))
        >>> history = model.fit(ones, ones, validation_data=(ones, ones), callbacks=[ValidateAverage()], verbose=0)
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_place = contextlib.ExitStack()

    KEPT = ()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the average in place."""
        self._in_place.enter_context(averaged(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the weights back."""
        self._in_place.close()
