"""Stops a training whose loss or gradients are not finite, or leaves the batch out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils import get_total_norm

from encapkeras.distribution.processes import all_reduce_max, broadcast, connected, exit_silently, rank_of_least
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.files import replacing, writing
from encapkeras.keras_internals import ask_before_steps, ask_no_longer
from encapkeras.model.origin import TrainingLoss
from encapkeras.model.spec_model import SpecModel
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.log_values import single_numbers
from encapkeras.training.non_finite import ADVICE, NonFiniteTrainingError, Origin, cause_in_gradients, cause_of, in_data


class NonFiniteStop(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises `TrainingError` at the first loss or gradient that is not finite, before the weights change.

    The error names the input, the weight or the first node whose output is not finite; for gradients the weight that
    comes first on the way back from the loss. Of a model that was not made from a spec it sees the gradients, and the
    loss (every log `loss` or `..._loss`) after the step; the gradients not if a `train_step` of its own does not use
    the model's `optimizer`. Validation losses and all weights are checked after each epoch. Infinite gradients of
    `mixed_float16`, or `train.precision: float16`, are left to Keras' search for a loss scale.

    A few bad batches can be left out instead: they change neither weights nor optimizer (the learning rate's step
    included), moving statistics or means of metrics. Of several processes (`encapkeras.distribution`) all leave out the
    same batches and end together, with one message; the process whose loss was bad writes its part of the batch.

    Put it before callbacks that save, so that they never save such weights.

    Args:
        max_bad_batches: How many batches may be left out, in the whole training (one `fit`); one more ends it.
        folder: Where the batch is written, for a bug report: `epoch_3_step_41.npz` with the arrays `x`, `y` and, if
            given, `sample_weight`; None for nowhere. Only models made from a spec show their batches.

    Attributes:
        bad_batches: Those left out so far, as (epoch, step), from 1.

    Raises:
        ArgumentError: Batches are to be left out, but the model makes its steps without its `optimizer`; raised in the
            first step.
        TrainingError: A loss, gradient or weight is not finite; raised by `fit`.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = keras.ops.convert_to_tensor([[1.0], [float("nan")], [2.0]])
        >>> stop = NonFiniteStop(max_bad_batches=1)
        >>> _ = model.fit(x, x, batch_size=1, shuffle=False, callbacks=[stop], verbose=0)
        >>> stop.bad_batches
        [(1, 2)]
    """

    KEPT: ClassVar[KeptTypes] = {"bad_batches": (list,)}

    def __init__(self, max_bad_batches: int = 0, folder: str | Path | None = None) -> None:
        super().__init__()
        self.max_bad_batches = max_bad_batches
        self.folder = None if folder is None else Path(folder)
        self.bad_batches: list[tuple[int, int]] = []
        self._left_out = self._asked = False
        self._current: TrainingLoss | None = None
        self._before: list[tuple[keras.Variable, torch.Tensor]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier training, which may have left the model with an error."""
        self.close()
        self.bad_batches = []
        self._left_out = self._asked = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave model and optimizer as they were."""
        self.close()

    def close(self) -> None:
        """Leave model and optimizer as they were; Keras calls no callback when `fit` ends with an error."""
        self._current = None
        if self.model is None:
            return
        if self._optimizer is not None:
            ask_no_longer(self._optimizer)
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = None

    @property
    def _optimizer(self) -> Any:
        return getattr(self.model, "optimizer", None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch for the message."""
        self._epoch = epoch + 1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check this one step before the optimizer makes it, and copy what a batch left out must not change."""
        self._step = batch + 1
        self._check_before_the_step()
        if self.max_bad_batches:
            variables = [*self.model.non_trainable_variables, *self.model.metrics_variables]
            self._before = [(variable, variable.value.detach().clone()) for variable in variables]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Undo what a bad batch has changed; check the loss that Keras shows, the mean since the first step."""
        self.close()
        logs = logs if logs is not None else {}
        if self._left_out:
            self._left_out = False
            for variable, before in self._before:
                variable.assign(before)
            found = self.model.get_metrics_result()
            logs.update({name: value if getattr(value, "ndim", 0) else float(value) for name, value in found.items()})
        elif logs and self.max_bad_batches and not self._asked:
            raise ArgumentError(
                f"NonFiniteStop cannot leave batches out: the train_step of {type(self.model).__name__} does not make "
                "its step with the model's optimizer. Give max_bad_batches=0 to stop at the first bad loss."
            )
        for name, value in _bad_losses(logs):
            self._end(f"the {name} became {value}", ADVICE)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the validation loss and every weight, which the last step may have broken."""
        validated = {name[4:]: value for name, value in (logs or {}).items() if name.startswith("val_")}
        for name, value in _bad_losses(validated):
            self._leave(f"the validation {name} became {value} in epoch {epoch + 1}. {ADVICE}")
        for weight in self.model.weights:
            if not torch.isfinite(weight.value).all():
                self._leave(f"weight '{weight.path}' is not finite after epoch {epoch + 1}. {ADVICE}")

    def _check_before_the_step(self) -> None:
        if isinstance(self.model, SpecModel):
            self.model.loss_watcher = self._check_loss
        if self._optimizer is not None:
            ask_before_steps(self._optimizer, self._may_step)

    def _check_loss(self, step: TrainingLoss) -> None:
        """Check the loss of a batch. This waits for a GPU; the backward pass keeps it busy afterwards."""
        self._current = step
        bad = not torch.isfinite(step.total).item()
        if not all_reduce_max(bad):
            return
        what = f"the loss became {step.total.item()}"
        if self._may_leave_out():
            in_own_data = bool(bad and in_data(self.model, step))
            self._leave_out(what, reporter=rank_of_least(-bad - in_own_data))
        else:
            origin, cause = cause_of(self.model, step) if bad else (Origin.ELSEWHERE, "")
            self._end(what, cause, reporter=rank_of_least(origin))

    def _may_step(self, grads: Sequence[Any], weights: Sequence[keras.Variable]) -> bool:
        """Check the gradients, unless the loss was bad already."""
        self._asked = True
        if self._left_out:
            return False
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            return True
        given = [gradient for gradient in grads if gradient is not None]
        if get_total_norm(given, math.inf).isfinite():  # no sum of squares, which could overflow
            return True
        if self._may_leave_out():
            self._leave_out("gradients became non-finite")
            return False
        self._end("gradients became non-finite", cause_in_gradients(grads, weights))
        return False

    def _may_leave_out(self) -> bool:
        return len(self.bad_batches) < self.max_bad_batches

    def _leave_out(self, what: str, reporter: int = 0) -> None:
        self._left_out = True
        self.bad_batches.append((self._epoch, self._step))
        count = f"{len(self.bad_batches)} of at most {self.max_bad_batches}"
        place = f"in epoch {self._epoch}, step {self._step}"
        text = self._report_of(reporter, f"skipped: {what} {place} ({count}).")
        if connected().is_first:
            print(text, file=sys.stderr)

    def _end(self, what: str, cause: str, reporter: int = 0) -> None:
        self._leave(self._report_of(reporter, f"{what} in epoch {self._epoch}, step {self._step}: {cause}"))

    def _leave(self, text: str) -> None:
        self.close()
        if connected().is_first:
            raise NonFiniteTrainingError(text)
        exit_silently(TrainingError.exit_code)

    def _report_of(self, process: int, text: str) -> str:
        """Return the text of one of the processes, which also writes its part of the batch."""
        if process == connected().rank and self.folder is not None and self._current is not None:
            path = self.folder / f"epoch_{self._epoch}_step_{self._step}.npz"
            write_batch(path, self._current.x, self._current.y, self._current.sample_weight)
            text += f" The batch is in {path}."
        return broadcast(text, process)


def _bad_losses(logs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the losses that are not finite; a `train_step` of a model's own may return several."""
    losses = {name: value for name, value in logs.items() if name == "loss" or name.endswith("_loss")}
    for name, value in single_numbers(losses).items():
        if not math.isfinite(value):
            yield name, value


def write_batch(path: Path, x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Write a batch as `.npz`: `x`, `y` and `sample_weight`; of several inputs `x_image`, `x_mask` and so on."""
    named = {"x": x, "y": y, "sample_weight": sample_weight}
    arrays = dict(pair for name, value in named.items() for pair in _arrays(name, value))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    else:
        yield name, keras.ops.convert_to_numpy(value)
        return
    for key, part in parts:
        yield from _arrays(f"{name}_{key}", part)
