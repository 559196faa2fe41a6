"""Stops a training that has gone wrong."""

from __future__ import annotations

import math
from typing import Any

import keras
import torch

from encapkeras.errors import TrainingError

_ADVICE = "Try a smaller learning rate, a warm-up (train.schedule.warmup_epochs) or train.clip_norm."


class NonFiniteStop(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises `TrainingError` as soon as the loss, or a weight after an epoch, is not a finite number.

    Put it before callbacks that save, so that they never save such weights.
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch for the message."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the loss: the mean since the epoch's first step, which one bad step makes bad."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {self._epoch}, step {batch + 1}. {_ADVICE}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the validation loss and at every weight, which the last step may have broken."""
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss became {loss} in epoch {epoch + 1}. {_ADVICE}")
        for weight in self.model.weights:
            if not torch.isfinite(weight.value).all():
                raise TrainingError(f"weight '{weight.path}' is not finite after epoch {epoch + 1}. {_ADVICE}")
