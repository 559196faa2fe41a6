"""Stops a training that has gone wrong, or leaves the batch out."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import torch
from torch.nn.utils import get_total_norm

from encapkeras.distribution.processes import connected, from_process, largest, leave, with_least
from encapkeras.errors import TrainingError
from encapkeras.keras_internals import ask_before_steps, ask_no_longer
from encapkeras.model.spec_model import SpecModel, TrainingLoss
from encapkeras.training.bad_batch import write_batch
from encapkeras.training.non_finite import ADVICE, Origin, cause_in_gradients, cause_of, in_data


class NonFiniteStop(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises `TrainingError` at the first loss or gradient that is not finite, before the weights change.

    The error names the first node whose output is not finite, or the weight, or the input; for gradients the weight
    that comes first on the way back from the loss. Of a model that was not made from a spec it sees the gradients, and
    the loss after the step. Validation losses and all weights are looked at after each epoch.

    A few bad batches can be left out instead: then neither weights nor optimizer (the learning rate's step included),
    moving statistics or means of metrics take anything from them.

    Of several processes (`encapkeras.distribution`) all leave out the same batches and end together; the first tells,
    and writes what the process has of the batch whose loss was bad. Gradients are those of the whole batch.

    With `mixed_float16`, or `train.precision: float16`, infinite gradients are part of Keras' search for a loss
    scale, and are left to it.

    Put it before callbacks that save, so that they never save such weights.

    Args:
        max_bad_batches: How many batches may be left out, in the whole training; one more ends it.
        folder: Where the batch goes, for a bug report: `epoch_3_step_41.npz` with the arrays `x`, `y` and, if given,
            `sample_weight`; None for nowhere. Only models made from a spec show their batches.

    Attributes:
        bad_batches: Those left out so far, as (epoch, step), from 1.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = keras.ops.convert_to_tensor([[1.0], [float("nan")], [2.0]])
        >>> stop = NonFiniteStop(max_bad_batches=1)
        >>> _ = model.fit(x, x, batch_size=1, shuffle=False, callbacks=[stop], verbose=0)
        >>> stop.bad_batches
        [(1, 2)]
    """

    KEPT = ("bad_batches",)

    def __init__(self, max_bad_batches: int = 0, folder: str | Path | None = None) -> None:
        super().__init__()
        self.max_bad_batches = max_bad_batches
        self.folder = None if folder is None else Path(folder)
        self.bad_batches: list[tuple[int, int]] = []
        self._left_out = False
        self._shown: TrainingLoss | None = None
        self._before: list[tuple[keras.Variable, torch.Tensor]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begins anew with a model that an earlier training may have left with an error."""
        self.close()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves model and optimizer as they were."""
        self.close()

    def close(self) -> None:
        """Leaves model and optimizer as they were; Keras itself does not tell when `fit` ends with an error."""
        self._shown = None
        if self.model is None:
            return
        ask_no_longer(self.model.optimizer)
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch for the message."""
        self._epoch = epoch + 1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts itself before the optimizer, for this one step, and notes what a batch left out must not change."""
        self._step = batch + 1
        self._stand_before_the_optimizer()
        if self.max_bad_batches:
            variables = [*self.model.non_trainable_variables, *self.model.metrics_variables]
            self._before = [(variable, variable.value.detach().clone()) for variable in variables]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts back what a bad batch has changed; looks at the loss that Keras shows, the mean since the first step."""
        self.close()
        logs = logs if logs is not None else {}
        if self._left_out:
            self._left_out = False
            for variable, value in self._before:
                variable.assign(value)
            logs.update({name: float(value) for name, value in self.model.get_metrics_result().items()})
        elif not math.isfinite(logs.get("loss", 0.0)):
            self._end(f"the loss became {logs['loss']}", ADVICE)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the validation loss and at every weight, which the last step may have broken."""
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            self._leave(f"the validation loss became {loss} in epoch {epoch + 1}. {ADVICE}")
        for weight in self.model.weights:
            if not torch.isfinite(weight.value).all():
                self._leave(f"weight '{weight.path}' is not finite after epoch {epoch + 1}. {ADVICE}")

    def _stand_before_the_optimizer(self) -> None:
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = self._look
        ask_before_steps(self.model.optimizer, self._may_step)

    def _look(self, step: TrainingLoss) -> None:
        """Looks at the loss of a batch. A GPU has to be waited for here; the backward pass keeps it busy after."""
        self._shown = step
        bad = not torch.isfinite(step.total).item()
        if not largest(bad):
            return
        what = f"the loss became {step.total.item()}"
        if self._may_leave_out():
            in_own_data = bool(bad and in_data(self.model, step))
            self._leave_out(what, teller=with_least(-bad - in_own_data))
        else:
            origin, cause = cause_of(self.model, step) if bad else (Origin.ELSEWHERE, "")
            self._end(what, cause, teller=with_least(origin))

    def _may_step(self, grads: Sequence[Any], weights: Sequence[keras.Variable]) -> bool:
        """Looks at the gradients, unless the loss was bad already."""
        if self._left_out:
            return False
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            return True
        given = [gradient for gradient in grads if gradient is not None]
        if get_total_norm(given, math.inf).isfinite():  # no sum of squares, which could overflow
            return True
        if self._may_leave_out():
            self._leave_out("gradients became not finite")
            return False
        self._end("gradients became not finite", cause_in_gradients(grads, weights))
        return False

    def _may_leave_out(self) -> bool:
        return len(self.bad_batches) < self.max_bad_batches

    def _leave_out(self, what: str, teller: int = 0) -> None:
        self._left_out = True
        self.bad_batches.append((self._epoch, self._step))
        count = f"{len(self.bad_batches)} of at most {self.max_bad_batches}"
        place = f"in epoch {self._epoch}, step {self._step}"
        text = self._told_by(teller, f"left out: {what} {place} ({count}).")
        if connected().is_first:
            print(text, file=sys.stderr)

    def _end(self, what: str, cause: str, teller: int = 0) -> None:
        self._leave(self._told_by(teller, f"{what} in epoch {self._epoch}, step {self._step}: {cause}"))

    def _leave(self, text: str) -> None:
        self.close()
        if connected().is_first:
            raise TrainingError(text)
        leave(TrainingError.exit_code)

    def _told_by(self, process: int, text: str) -> str:
        """The text of one of the processes, which also writes what it has of the batch."""
        if process == connected().rank and self.folder is not None and self._shown is not None:
            path = self.folder / f"epoch_{self._epoch}_step_{self._step}.npz"
            write_batch(path, self._shown.x, self._shown.y, self._shown.sample_weight)
            text += f" The batch is in {path}."
        return from_process(text, process)
