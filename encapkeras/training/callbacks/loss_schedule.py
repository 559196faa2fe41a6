"""Losses that change from epoch to epoch."""

from __future__ import annotations

from typing import Any

import keras


class LossSchedule(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls `set_epoch(epoch, epochs)`, from 0, of each compiled loss that has it, as the spread loss, in each epoch.

    Examples:
        >>> class Rising(keras.losses.MeanSquaredError):
        ...     def set_epoch(self, epoch: int, epochs: int) -> None:
        ...         print(f"epoch {epoch} of {epochs}")
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(loss=Rising())
        >>> ones = keras.ops.ones((4, 1))
        >>> _ = model.fit(ones, ones, epochs=2, callbacks=[LossSchedule()], verbose=0)
        epoch 0 of 2
        epoch 1 of 2
    """

    KEPT = ()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Call the losses."""
        for loss in keras.tree.flatten(self.model.loss):
            if hasattr(loss, "set_epoch"):
                loss.set_epoch(epoch, self.params["epochs"])
