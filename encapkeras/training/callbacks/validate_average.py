"""Validation of the averaged weights."""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import keras
import torch

from encapkeras.training.optimizer.averaged_weights import put_average, put_back


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

    KEPT = ()
    # The weights while their average is in place, by model: a second callback of this class must not take that for
    # the weights, nor a later `fit` put back those of one that an error ended.
    _before: ClassVar[WeakKeyDictionary[keras.Model, list[torch.Tensor]]] = WeakKeyDictionary()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget a validation that an error ended: the average stays, as Keras leaves it when `fit` ends."""
        self._before.pop(self.model, None)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the average in place."""
        if self.model not in self._before:
            self._before[self.model] = put_average(self.model)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the weights back."""
        put_back(self.model.trainable_weights, self._before.pop(self.model, []))
