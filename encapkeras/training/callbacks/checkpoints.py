"""The best and the last weights of a training, on the disk."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar

import keras

from encapkeras.files import replacing
from encapkeras.keras_internals import not_compiled
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.optimizer.averaged_weights import averaged
from encapkeras.training.run.identity import file_digest, mark_checkpoint

_LOWEST = ("loss", "error")  # ends of the names of logs of which the lowest is best


@in_first_process
class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the model after every epoch, and the best epoch's model a second time.

    Best is the highest `monitor`, or the lowest if its name ends with `loss` or `error`; of equal ones, that with the
    lower `val_loss`. Without validation there is no best. The files hold the network and its weights, or their moving
    average where the optimizer has one, but no optimizer, so that `encapkeras.load_model` reads them anywhere. A file
    is replaced when the new one is complete.

    Args:
        best: File of the best model.
        last: File of the last model.
        monitor: Name of the log that decides; for `metrics=["acc"]` it is `val_acc`, for example. A warning says so if
            the logs of an epoch with validation do not have it.

    Attributes:
        best_epoch: The best epoch, from 1; None without validation.
        best_accuracy: Its value of `monitor`; None without validation.
        best_loss: Its validation loss; None without validation.
        best_digest: SHA-256 of the file `best`; None without validation.
        last_epoch: The epoch that `last` holds, from 1; None before the first is complete.
        run: The run whose name the files bear; None for none.
    """

    KEPT: ClassVar[KeptTypes] = {
        "best_epoch": (int, NoneType),
        "best_accuracy": (float, int, NoneType),
        "best_loss": (float, int, NoneType),
        "best_digest": (str, NoneType),
        "last_epoch": (int, NoneType),
        "run": (str, NoneType),
    }

    def __init__(self, best: str | Path, last: str | Path, monitor: str = "val_accuracy") -> None:
        super().__init__()
        self.best = Path(best)
        self.last = Path(last)
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_accuracy: float | None = None
        self.best_loss: float | None = None
        self.best_digest: str | None = None
        self.last_epoch: int | None = None
        self.run: str | None = None
        self._compared = False
        self._warned = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Note that the best file has not been compared."""
        self._compared = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget a best epoch, in a resumed training, whose file a later epoch has replaced: that epoch comes again."""
        if not self._compared and self.best_digest not in (None, file_digest(self.best)):
            self.best_epoch = self.best_accuracy = self.best_loss = self.best_digest = None
        self._compared = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        logs = logs or {}
        # What `compile` added would triple the file and tie its loading to our training code.
        with replacing(self.last) as file, averaged(self.model), not_compiled(self.model):
            self.model.save(file)
            if self.run is not None:
                mark_checkpoint(file, self.run, epoch + 1)
        self.last_epoch = epoch + 1
        if self.monitor not in logs:
            self._warn(logs)
            return
        accuracy, loss = logs[self.monitor], logs.get("val_loss", 0.0)
        if self._is_better(accuracy, loss):
            with replacing(self.best) as file:
                shutil.copyfile(self.last, file)
            self.best_epoch, self.best_accuracy, self.best_loss = epoch + 1, accuracy, loss
            self.best_digest = file_digest(self.best)

    def _is_better(self, accuracy: float, loss: float) -> bool:
        if self.best_accuracy is None or self.best_loss is None:
            return True
        sign = -1 if self.monitor.endswith(_LOWEST) else 1
        return (sign * accuracy, -loss) > (sign * self.best_accuracy, -self.best_loss)

    def _warn(self, logs: dict[str, Any]) -> None:
        """Warn once that there will be no best model, unless it may come with an epoch that is validated."""
        is_validated = any(name.startswith("val_") for name in logs)
        if not self._warned and (is_validated or not self.monitor.startswith("val_")):
            self._warned = True
            warnings.warn(
                f"Checkpoints does not write {self.best}: the logs have no '{self.monitor}'. They have: "
                f"{', '.join(logs)}. Choose one of these with Checkpoints(..., monitor=NAME).",
                stacklevel=2,
            )
