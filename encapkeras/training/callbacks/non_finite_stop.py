"""Stops a training that has gone wrong."""

from __future__ import annotations

import math
from typing import Any

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.graph.model import SpecModel, TrainingLoss
from encapkeras.training.non_finite import ADVICE, cause_of


class NonFiniteStop(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises `TrainingError` as soon as the loss, or a weight after an epoch, is not a finite number.

    A model made from a spec shows it each loss before the weights change: the error names the first node whose output
    is not finite, or the weight, or the input. What is trained is still as it was when it gave the loss; the moving
    statistics of batch norms have seen the batch already. Of another model it sees the loss after the step, when all
    weights may be spoilt, and names none.

    Put it before callbacks that save, so that they never save such weights.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Asks the model for its losses."""
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = self._look

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Asks no longer."""
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch for the message."""
        self._epoch = epoch + 1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the step for the message."""
        self._step = batch + 1

    def _look(self, step: TrainingLoss) -> None:
        """Looks at the loss of a batch. A GPU has to be waited for here; the backward pass keeps it busy after."""
        if torch.isfinite(step.total):
            return
        self.on_train_end()  # Keras does not tell after an error
        cause = cause_of(self.model, step)
        raise TrainingError(f"the loss became {step.total.item()} in epoch {self._epoch}, step {self._step}: {cause}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the loss that Keras shows: the mean since the epoch's first step, which one bad step makes bad."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {self._epoch}, step {batch + 1}. {ADVICE}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the validation loss and at every weight, which the last step may have broken."""
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss became {loss} in epoch {epoch + 1}. {ADVICE}")
        for weight in self.model.weights:
            if not torch.isfinite(weight.value).all():
                raise TrainingError(f"weight '{weight.path}' is not finite after epoch {epoch + 1}. {ADVICE}")
