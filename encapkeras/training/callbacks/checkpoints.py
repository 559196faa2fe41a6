"""The best and the last weights of a training, on the disk."""

from __future__ import annotations

import inspect
import math
import shutil
import warnings
import weakref
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar

import keras

from encapkeras.errors import ArgumentError
from encapkeras.files import replacing
from encapkeras.keras_internals import lowest_is_best, not_compiled, validates
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.callbacks.log_values import single_numbers
from encapkeras.training.optimizer.averaged_weights import averaged
from encapkeras.training.run.identity import file_digest, mark_checkpoint

_LOWEST = ("loss", "error")  # ends of the names of logs of which the lowest is best


@in_first_process
class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the model after every epoch, and the best epoch's model a second time.

    Best is the highest `monitor`, or the lowest if its name ends with `loss` or `error`, or is that of a metric that
    Keras minimizes, as `val_mse`; of equal ones, that with the lower `val_loss`; NaN is never best. The files hold the
    network and its weights, or their moving average where the optimizer has one, but no optimizer, so that
    `encapkeras.load_model` reads them anywhere. A file is replaced when the new one is complete. A second `fit` of the
    same model goes on: best is that of both. That of another model begins anew.

    Args:
        best: File of the best model; None for none.
        last: File of the last model.
        monitor: Name of the log that decides; for `metrics=["acc"]` it is `val_acc`, for example. A warning in the
            first epoch says so if there is no such log, or no validation.

    Attributes:
        best_epoch: The best epoch, from 1; None without validation.
        best_accuracy: Its value of `monitor`; None without validation.
        best_loss: Its validation loss; None without validation.
        best_metrics: All its logs of the validation, by name; empty without validation.
        best_digest: SHA-256 of the file `best`; None without validation.
        last_epoch: The epoch that `last` holds, from 1; None before the first is complete.
        run: The run whose name the files bear; None for none.

    Raises:
        ArgumentError: Keras cannot save the model; raised by `fit`.
    """

    KEPT: ClassVar[KeptTypes] = {
        "best_epoch": (int, NoneType),
        "best_accuracy": (float, int, NoneType),
        "best_loss": (float, int, NoneType),
        "best_metrics": (dict,),
        "best_digest": (str, NoneType),
        "last_epoch": (int, NoneType),
        "run": (str, NoneType),
    }

    def __init__(self, best: str | Path | None, last: str | Path, monitor: str = "val_accuracy") -> None:
        super().__init__()
        self.best = None if best is None else Path(best)
        self.last = Path(last)
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_accuracy: float | None = None
        self.best_loss: float | None = None
        self.best_metrics: dict[str, float] = {}
        self.best_digest: str | None = None
        self.last_epoch: int | None = None
        self.run: str | None = None
        self._compared = False
        self._warned = False
        self._trained: weakref.ref[keras.Model] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the model can be saved, and forget the best epoch of another one."""
        _check_saves(self.model)
        if self._trained is not None and self._trained() is not self.model:
            self._forget()
        self._trained = weakref.ref(self.model)
        self._compared = self._warned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget a best epoch, in a resumed training, whose file a later epoch has replaced: that epoch comes again."""
        if not self._compared and self.best and self.best_digest not in (None, file_digest(self.best)):
            self._forget()
        self._compared = True

    def _forget(self) -> None:
        self.best_epoch = self.best_accuracy = self.best_loss = self.best_digest = None
        self.best_metrics = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        # What `compile` added would triple the file and tie its loading to our training code.
        with replacing(self.last) as file, averaged(self.model), not_compiled(self.model):
            self.model.save(file)
            if self.run is not None:
                mark_checkpoint(file, self.run, epoch + 1)
        self.last_epoch = epoch + 1
        values = single_numbers(logs)
        if self.best is None:
            return
        if self.monitor not in values:
            self._warn(self.best, values)
            return
        accuracy, loss = values[self.monitor], values.get("val_loss", 0.0)
        if self._is_better(accuracy, loss):
            with replacing(self.best) as file:
                shutil.copyfile(self.last, file)
            self.best_epoch, self.best_accuracy, self.best_loss = epoch + 1, accuracy, loss
            self.best_metrics = {name: value for name, value in values.items() if name.startswith("val_")}
            self.best_digest = file_digest(self.best)

    def _is_better(self, accuracy: float, loss: float) -> bool:
        if self.best_accuracy is None or self.best_loss is None:
            return not math.isnan(accuracy)
        lowest = self.monitor.endswith(_LOWEST) or lowest_is_best(self.model, self.monitor)
        sign = -1 if lowest else 1
        return (sign * accuracy, -loss) > (sign * self.best_accuracy, -self.best_loss)

    def _warn(self, best: Path, logs: dict[str, Any]) -> None:
        """Warn once that there will be no best model, unless this is only an epoch without validation."""
        of_validation = self.monitor.startswith("val_")
        has_validation = any(name.startswith("val_") for name in logs)
        fit_validates = has_validation or validates(self.model, inspect.currentframe())
        if self._warned or (of_validation and fit_validates and not has_validation):
            return
        self._warned = True
        why, advice = f"the logs have no '{self.monitor}'", "Choose one of these with Checkpoints(..., monitor=NAME)."
        if of_validation and not fit_validates:
            why, advice = f"no epoch is validated, so that {why}", f"Give fit validation data, or c{advice[1:]}"
        warnings.warn(f"Checkpoints does not write {best}: {why}. They have: {', '.join(logs)}. {advice}", stacklevel=2)


def _check_saves(model: keras.Model) -> None:
    try:
        keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ArgumentError(
            f"Checkpoints cannot save the model '{model.name}': its class {type(model).__name__} takes arguments that "
            "Keras cannot write. Give it get_config and from_config, or save its weights alone with "
            "keras.callbacks.ModelCheckpoint(..., save_weights_only=True)."
        ) from error
