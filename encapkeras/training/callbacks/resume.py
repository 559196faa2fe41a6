"""A training that is resumed where it was interrupted."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import keras
import torch

from encapkeras.distribution.processes import all_reduce_max, broadcast, connected, exit_silently
from encapkeras.errors import ArgumentError, TrainingError, launched_with
from encapkeras.files import reading
from encapkeras.keras_internals import (
    begin_fit_at,
    callbacks_of_fit,
    is_fitting,
    set_training_function,
    training_function,
)
from encapkeras.text import listed
from encapkeras.training.callbacks.callback_state import callback_state, keeps_something, set_callback_state
from encapkeras.training.callbacks.can_resume import check_can_resume
from encapkeras.training.non_finite import ADVICE
from encapkeras.training.optimizer.averaged_weights import keeps_average, replaced
from encapkeras.training.random_state import random_state, set_random_state
from encapkeras.training.run.resume_state import (
    Position,
    State,
    StateFiles,
    cut_back,
    file_lengths,
    model_state,
    set_model_state,
)


class SkippingData(Protocol):
    """Data that need not make the batches that a resumed training skips, as `encapkeras.data.Batches`."""

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Choose the epoch, from 0, and how many of its first batches will be thrown away."""


class OtherCallbacksError(TrainingError):
    """A training was saved with other callbacks than it is resumed with."""

    def __init__(self, folder: Path, saved: list[str], given: list[str]) -> None:
        super().__init__(
            f"the saved training in {folder} has the callbacks {listed(saved) or 'none'}; now it "
            f"has {listed(given) or 'none'}. Resume with the same, or train in another folder."
        )
        self.saved, self.given = saved, given


class Resume(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the complete state of a training, its resume state, and resumes from it at the very step.

    A training that is interrupted at any moment and run again with the same script ends with the same numbers as an
    uninterrupted one, on the same machine to the last bit. The state holds weights, moving statistics, optimizer,
    averages of weights, means of metrics, the random generators of Python, NumPy, torch and Keras, the position in the
    epoch, and the attributes of the callbacks in `also`. Files that these append to are cut back.

    Put it FIRST in the list of callbacks. It saves at the start of each epoch, the first included, and every so many
    minutes between steps. Ctrl-C and SIGTERM let the step (or the validation) end, save, and end the program with exit
    code 130 or 143; a second Ctrl-C does not wait, except under torchrun.

    The data must come in the same order again, as arrays and a `torch.utils.data.DataLoader` do, whose order depends on
    a global generator of Python, NumPy or torch. The earlier batches of the epoch are drawn again, without training on
    them. Refused are `steps_per_epoch` and `validation_steps` of `fit`, generators for several epochs, and models with
    several optimizers.

    Of several processes (`encapkeras.distribution`) the first writes, and sends what it reads to the others, which need
    the same callbacks in `also`; a signal to one of them ends all at the same step.

    Args:
        folder: Folder of the states, `epoch_3_step_120.pt`: in epoch 3, after 120 steps. Nothing else should be there.
        data: The training data, if it has `set_epoch(epoch, skipped)`, which is called in each epoch and saves the work
            of making the batches that are thrown away.
        also: Callbacks to restore as well. Of one with `KEPT`, a tuple of names, or a mapping from names to tuples of
            types, these attributes; of another all that are numbers, texts, None, arrays, or lists of these (so Keras'
            `EarlyStopping` and `ReduceLROnPlateau`). If it has `appends_to`, paths, these files, or the event files in
            these folders, are cut back. None: of the callbacks of `fit` those with `KEPT` or `appends_to`, as ours, and
            Keras' `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint`.
        minutes: Minutes from one save to the next within an epoch; 0 for every step; None for between epochs alone.
        epochs: Epochs from one save to the next.
        keep: How many states stay.

    Attributes:
        resumed_at: Where the training was resumed; None if it started from the beginning.

    Raises:
        ArgumentError: A number here is out of range, or `fit` has what is refused; raised by `fit`.
        TrainingError: The state is damaged, or belongs to another model or other data; raised by `fit`.
        RunFolderError: A state cannot be written, for example because the disk is full; raised by `fit`. Earlier states
            are unchanged.

    Examples:
        >>> folder = getfixture("tmp_path")
        >>> def train(name: str, epochs: int) -> keras.Model:
        ...     keras.utils.set_random_seed(0)
        ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        ...     model.compile("adam", "mse")
        ...     x, y = keras.random.normal((8, 3)), keras.random.normal((8, 1))
        ...     model.fit(x, y, batch_size=2, epochs=epochs, callbacks=[Resume(folder / name)], verbose=0)
        ...     return model
        >>> whole = train("whole", epochs=3)
        >>> _ = train("parts", epochs=2)
        >>> parts = train("parts", epochs=3)
        >>> bool((whole.get_weights()[0] == parts.get_weights()[0]).all())
        True
    """

    def __init__(
        self,
        folder: str | Path,
        data: SkippingData | None = None,
        also: Sequence[keras.callbacks.Callback] | None = None,
        minutes: float | None = 10.0,
        epochs: int = 1,
        keep: int = 2,
    ) -> None:
        super().__init__()
        if keep < 1 or epochs < 1 or (minutes is not None and minutes < 0):
            raise ArgumentError(
                f"keep and epochs must be at least 1, minutes at least 0 or None; received keep {keep}, epochs "
                f"{epochs}, minutes {minutes}"
            )
        self.files = StateFiles(Path(folder), keep)
        self.data = data
        self.also = list(also or ())
        self._finds_callbacks = also is None
        self.minutes = minutes
        self.epochs = epochs
        self.resumed_at: Position | None = None
        self._to_restore: State | None = None
        self._real_step: Any = None  # of the model, while a stand-in throws a batch away
        self._skipped = 0
        self._raw: list[torch.Tensor] = []  # weights, while Keras puts their average in place
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Load the newest state, if there is one."""
        frame = inspect.currentframe()
        given = callbacks_of_fit(self.model, frame)
        check_can_resume(self, given, frame, self.params["epochs"])
        if self._finds_callbacks:
            self.also = [each for each in given if each is not self and keeps_something(each)]
        early = [each for each in given[: given.index(self)] if each in self.also] if self in given else []
        if early:
            warnings.warn(
                f"Resume comes after {', '.join(type(each).__name__ for each in early)} in the callbacks of fit, so a "
                "resumed training may have other numbers. Put Resume first.",
                stacklevel=2,
            )
        self._saved_at, self._epoch = time.monotonic(), -1
        self._writes = connected().is_first
        if self._writes:
            self.files.lock()
        self._watch_signals()
        newest = broadcast(self.files.newest() if self._writes else None)
        if newest is None:
            return
        self.resumed_at, state = newest
        self._epoch = self.resumed_at.epoch - 1  # the last one, should there be no other
        if self.resumed_at.step and state["steps"] != self.params["steps"]:
            raise TrainingError(
                f"the saved training in {self.files.folder} has epochs of {state['steps']} steps; now they have "
                f"{self.params['steps']}, so its place in the epoch is lost. Resume with the data and the batch "
                "size that it started with, or train in another folder."
            )
        set_model_state(self.model, state["model"])
        self._restore_callbacks(state)  # for what they show if this ends soon
        if self._writes:
            with self._reading():
                pairs = [(_appended(callback), saved["lengths"]) for callback, saved in self._saved_callbacks(state)]
                cut_back([pair for paths, lengths in pairs for pair in zip(paths, lengths, strict=True)])
        self._to_restore = state
        # What ended early has no further epoch.
        begin_fit_at(self.model, self.params["epochs"] if state["ended_early"] else self.resumed_at.epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restore the rest of the state, or save."""
        begin_fit_at(self.model, None)
        if self._to_restore is not None and self.resumed_at and epoch != self.resumed_at.epoch:
            raise TrainingError(
                f"the saved training in {self.files.folder} is at {self.resumed_at}; initial_epoch of fit is {epoch}. "
                "Leave initial_epoch out, or train in another folder."
            )
        self._epoch, self._steps, self._save_next, self._skipped = epoch, 0, False, 0
        if self._to_restore is not None:
            self._restore(self._to_restore)
        else:
            self._at_epoch = self._at_step = random_state()
            received = self._received()
            if received or epoch % self.epochs == 0:
                self._save(Position(epoch, 0))
            self._end_after(received, Position(epoch, 0))
        if self.data is not None:
            self.data.set_epoch(epoch, self._skipped)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save between two steps, if it is time; have a batch of before the state thrown away."""
        self._between_steps()
        if batch < self._skipped:  # for one step at a time, so that an error elsewhere leaves the model as it was
            self._real_step = training_function(self.model)
            set_training_function(self.model, self._throw_away)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check whether it is time to save, and record the random generators before the next batch is drawn."""
        self._steps = batch + 1
        if batch >= self._skipped:
            self._save_next = bool(all_reduce_max(bool(self._signal) or self._is_time()))
            if self._save_next:
                self._at_step = random_state()
            return
        set_training_function(self.model, self._real_step)
        if self._steps == self._skipped:
            with self._reading():
                set_random_state(self._at_step)
            # Were this the last step of the epoch, fit would now ask what it returned for names of metrics.
            self._logs_of_last.update(self.model.get_metrics_result())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Save between the last step of an epoch and the validation, if it is time."""
        if is_fitting(self.model, inspect.currentframe()):  # not in `evaluate` after a `fit` that ended with an error
            self._between_steps()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Copy the weights, which Keras replaces by their average before it calls `on_train_end`."""
        if self._steps < self._skipped:
            raise TrainingError(
                f"the saved training in {self.files.folder} is at {Position(epoch, self._skipped)}; now the epoch has "
                f"{self._steps} steps. Resume with the data that it started with, or train in another folder."
            )
        if keeps_average(self.model.optimizer):
            self._raw = [weight.value.detach().clone() for weight in self.model.trainable_weights]

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save the end: the same script, run again, gives the trained model at once."""
        if self._to_restore is not None:  # nothing was left to train
            self._restore_callbacks(self._to_restore)
            self._to_restore = None
            if self._writes:
                print(f"nothing is left to train: {self.files.folder} holds the end of the training", file=sys.stderr)
        else:
            self._at_epoch = self._at_step = random_state()
            with replaced(self.model.trainable_weights, self._raw):
                self._save(Position(self._epoch + 1, 0), ended_early=self.model.stop_training)
        self._raw = []
        self._end_after(self._received(), Position(self._epoch + 1, 0))
        self.close()
        if self._signal:  # it has come meanwhile, and there is no next time
            signal.raise_signal(self._signal)

    def close(self) -> None:
        """Leave model, signals and folder as they were; Keras calls no callback when `fit` ends with an error."""
        if self.model is not None:
            begin_fit_at(self.model, None)
            if self._real_step is not None and training_function(self.model) == self._throw_away:
                set_training_function(self.model, self._real_step)
        self._restore_handlers()
        self.files.unlock()

    def _between_steps(self) -> None:
        if self._save_next:
            position, self._save_next = Position(self._epoch, self._steps), False
            self._save(position)
            self._end_after(self._received(), position)

    def _is_time(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes

    def _save(self, position: Position, ended_early: bool = False) -> None:
        for weight in self.model.weights:  # the states before are good, and must not be lost to a bad one
            if not torch.isfinite(weight.value).all():
                raise TrainingError(f"weight '{weight.path}' is not finite at {position}. {ADVICE}")
        if not self._writes:
            return
        state = {
            "model": model_state(self.model),
            "random": {"epoch": self._at_epoch, "step": self._at_step},
            "steps": self.params["steps"],
            "callbacks": [
                {
                    "class": type(callback).__name__,
                    "kept": callback_state(callback),
                    "lengths": [file_lengths(path) for path in _appended(callback)],
                }
                for callback in self.also
            ],
            "ended_early": ended_early,
        }
        self.files.save(position, state)
        self._saved_at = time.monotonic()

    def _saved_callbacks(self, state: State) -> list[tuple[keras.callbacks.Callback, State]]:
        now, then = [type(each).__name__ for each in self.also], [each["class"] for each in state["callbacks"]]
        if self._finds_callbacks and not then:  # saved when they were not looked for
            return []
        if now != then:
            raise OtherCallbacksError(self.files.folder, then, now)
        return list(zip(self.also, state["callbacks"], strict=True))

    def _restore_callbacks(self, state: State) -> None:
        for callback, saved in self._saved_callbacks(state):
            with self._reading():
                set_callback_state(callback, saved["kept"])

    def _reading(self) -> AbstractContextManager[None]:
        advice = "Move the newest away to resume from the state before, if there is one, or train in another folder."
        return reading(self.files.folder, "resume states", TrainingError, advice)

    def _restore(self, state: State) -> None:
        self._to_restore = None
        self._restore_callbacks(state)  # now: many forget everything in on_train_begin
        self._skipped = self.resumed_at.step if self.resumed_at else 0
        set_model_state(self.model, state["model"])  # again: fit has emptied the metrics
        if not self._skipped:  # the end of an epoch was saved with its metrics
            self.model.reset_metrics()
        self._at_epoch, self._at_step = state["random"]["epoch"], state["random"]["step"]
        with self._reading():
            set_random_state(self._at_epoch)

    def _throw_away(self, data: Any) -> dict[str, Any]:
        """Stand in for the model's training step on a batch that was trained on before."""
        self._logs_of_last: dict[str, Any] = {}
        return self._logs_of_last

    def _watch_signals(self) -> None:
        self._signal = 0
        if threading.current_thread() is not threading.main_thread():
            return  # Python hands signals to the main thread alone
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._handlers[number] = signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        torchrun = torch.distributed.is_torchelastic_launched()
        # torchrun hands on what the terminal has sent to its processes already.
        again = self._signal == number == signal.SIGINT and not torchrun
        # `fit` may have ended with an error that no callback hears of.
        if again or not is_fitting(self.model, frame):
            self._restore_handlers()
            signal.raise_signal(number)
        elif not self._signal:  # a queue may send SIGTERM twice
            self._signal = number
            if self._writes:  # no print inside one
                how = "; Ctrl-C once more ends at once" if launched_with() or not torchrun else ""
                os.write(2, f"\nending after this step or validation{how}\n".encode())

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            if handler is not None:  # else it was not set from Python
                signal.signal(number, handler)
        self._handlers.clear()

    def _received(self) -> int:
        """Return the signal that a process has received, 0 for none; one that comes meanwhile counts the next time."""
        return all_reduce_max(self._signal)

    def _end_after(self, number: int, position: Position) -> None:
        if not number:
            return
        received = signal.Signals(number)
        self.close()
        if not self._writes:
            exit_silently(128 + received)
        text = f"ended by {received.name} at {position}; {self.files.folder} has all that is needed to resume"
        if received == signal.SIGINT:
            raise KeyboardInterrupt(text)
        print(text, file=sys.stderr)
        raise SystemExit(128 + received)


def _appended(callback: keras.callbacks.Callback) -> Sequence[Path]:
    """The files, or folders of event files, that a callback appends to."""
    paths: Sequence[Path] = getattr(callback, "appends_to", ())
    return paths
