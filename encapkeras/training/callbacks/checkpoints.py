"""The best and the last weights, on disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from encapkeras.training.averaged_weights import averaged
from encapkeras.training.run_folder import replacing


class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the model after every epoch, and the best epoch's model a second time.

    Best is the highest `val_accuracy`; of equal ones, that with the lower `val_loss`. Without validation there is no
    best. The files hold the network and its weights, not the optimizer, so that `encapkeras.load_model` reads them
    anywhere; where the optimizer keeps a moving average of the weights, that is what they hold. A file is replaced only
    when the new one is complete.

    Args:
        best: Where the best model goes.
        last: Where the last model goes.

    Attributes:
        best_epoch: The best epoch, from 1; None without validation.
        best_accuracy: Its validation accuracy, 0 to 1; None without validation.
        last_epoch: The epoch that `last` holds, from 1; None before the first is complete.
    """

    def __init__(self, best: Path, last: Path) -> None:
        super().__init__()
        self.best = best
        self.last = last
        self.best_epoch: int | None = None
        self.best_accuracy: float | None = None
        self.last_epoch: int | None = None
        self._best_score = (float("-inf"), float("-inf"))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves."""
        logs = logs or {}
        with replacing(self.last) as file, averaged(self.model), _without_training_state(self.model):
            self.model.save(file)
        self.last_epoch = epoch + 1
        if "val_accuracy" not in logs:
            return
        score = (logs["val_accuracy"], -logs["val_loss"])
        if score > self._best_score:
            with replacing(self.best) as file:
                shutil.copyfile(self.last, file)
            self._best_score, self.best_accuracy, self.best_epoch = score, logs["val_accuracy"], epoch + 1


@contextlib.contextmanager
def _without_training_state(model: keras.Model) -> Iterator[None]:
    """Hides what `compile` added: it would triple the file and tie its loading to our training code."""
    optimizer, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, True
