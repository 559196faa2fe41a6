"""The progress of a training: a bar where it can move, lines elsewhere."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar

import keras
from rich.console import Console
from rich.text import Text

from encapkeras.keras_internals import is_fitting, mean_batch_size
from encapkeras.model.spec_model import SpecModel
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.callbacks.log_values import single_numbers
from encapkeras.training.callbacks.progress_bar import Bar, make_bar
from encapkeras.training.callbacks.progress_text import GAP, epoch_line, joined, metric_texts
from encapkeras.training.callbacks.young_statistics import has_fresh_statistics, why_at_chance
from encapkeras.training.output import duration_text, say, stdout_console

MINUTE = 60.0  # seconds between the lines within an epoch
EARLY = 10.0  # seconds to the first of them, where it is known that an epoch takes longer than a minute
REFRESH = 0.25  # seconds between two states of a bar: the values of a step have to come from the GPU


@in_first_process
class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Shows a bar with speed and time left for all epochs, and prints a line for each finished epoch.

    The bar is drawn on a terminal and in a notebook. Elsewhere, as in a file or the log of a queue, an epoch that takes
    longer than a minute gets a plain line a minute, the first after ten seconds, with step, speed, time left and loss
    at least. A network whose validation is at chance because its batch norms have seen few steps gets a line that says
    so, once. It works in any `fit`, and in `evaluate`; the length of an epoch need not be known. It leaves out texts,
    metrics with several numbers, metrics that side losses report in addition to their values, those of `train` beside
    accuracy, loss and the one that chooses the weights, and what does not fit into the width of the output, where a
    `mean_iou` goes before the accuracy.

    Args:
        images: How many images an epoch trains on. None: as many as the data given to `fit` have; where that is not
            known, the speed is in steps.
        console: Where to print; None: on stdout.
        bar: Whether there is a bar where it can be drawn.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> ones = keras.ops.ones((4, 1))
        >>> history = model.fit(ones, ones, epochs=2, callbacks=[Progress()], verbose=0)
        epoch 1/2  loss ... images/s  0:00:00 left
        epoch 2/2  loss ... images/s  0:00:00 left
    """

    KEPT: ClassVar[KeptTypes] = {"young_steps": (int, NoneType)}

    def __init__(self, images: int | None = None, console: Console | None = None, bar: bool = True) -> None:
        super().__init__()
        self.images = images
        self.console = console
        self.bar = bar
        self.young_steps: int | None = None  # since moving statistics were fresh; None: never, or long ago
        self._trains = False
        self._bar: Bar | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show the bar."""
        self._trains, self._epochs, self._steps = True, self.params["epochs"], self.params["steps"]
        self._per_step = mean_batch_size(self.model, inspect.currentframe())
        if self.images is not None:
            self._per_step = self.images / self._steps if self._steps else None
        self._counted_from = -1.0  # the place in the training, in epochs, from which on the time is taken
        self.young_steps = 0 if has_fresh_statistics(self.model) else None
        self._begin()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Empty the bar."""
        self._epoch, self._epoch_start = epoch, time.perf_counter()
        self._label = f"epoch {epoch + 1:{len(str(self._epochs))}}/{self._epochs}"
        self._done = self._done_before = 0
        self._stop = self._first_stop = self._epoch_start
        if self._counted_from < 0:
            self._counted_from, self._start = epoch, self._epoch_start
        if self._bar:
            self._bar.show(self._label, 0, self._steps, "")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar. A step without logs was made by an earlier process, and shows nothing of the time it takes."""
        now, before = time.perf_counter(), self._done
        self._done = batch + 1
        if not logs:
            self._done_before, self._counted_from = self._done, self._epoch + self._part()
            self._start = self._epoch_start = self._stop = self._first_stop = now
            self._tell(lambda: ["trained before"])
            return
        self._stop = now
        if before == self._done_before:
            self._first_stop, self._first = now, self._done
        if self.young_steps is not None:
            self.young_steps += self._done - before
        # Narrow outputs cut the end off.
        self._tell(lambda: [self._speed(), self._left(self._epoch + self._part()), *self._metrics(logs, "loss")], 3)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show that validation is running."""
        self._trains = self._trains and is_fitting(self.model, inspect.currentframe())  # else `fit` ended with an error
        if not self._trains:
            self._epochs, self._steps, self._label, self._done = 1, self.params["steps"], "test", 0
            self._begin()
        elif self._bar:
            self._bar.show(self._label, self._done, self._steps, "validation")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Show that validation or a test goes on."""
        if self._trains:
            self._tell(lambda: [f"validation, step {batch + 1:,}"])
        else:
            self._done = batch + 1
            self._tell(lambda: self._metrics(logs))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar of a test."""
        if not self._trains:
            self.close()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the epoch's line."""
        numbers = single_numbers(logs)
        if self._steps is None and self._done:
            self._steps = self._done
            if self.images is not None:
                self._per_step = self.images / self._steps
        speed = f"{numbers['images_per_second']:,.0f} images/s" if "images_per_second" in numbers else self._speed()
        left, width = self._left(epoch + 1), self._console.width
        first = self.model.score_metrics.shown if isinstance(self.model, SpecModel) and self.model.score_metrics else ""
        self._print(epoch_line(self._label, self._metrics(logs, first), speed, left, width))
        if self.young_steps is not None:
            why = why_at_chance(self.model, self.young_steps, numbers)
            if why:
                self.young_steps = None
                self._print(why)
        if self._bar:
            self._bar.show(self._label, self._done, self._steps, GAP.join(filter(None, [speed, left])))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, also after an error."""
        self._trains = False
        if self._bar:
            self._bar.close()

    def _begin(self) -> None:
        if self._bar:  # of a `fit` that ended with an error
            self._bar.close()
        self._console = self.console or stdout_console()
        self._shown = self._printed = time.perf_counter()
        self._told = False  # whether there has been a line
        self._bar = make_bar(self._console, f"epoch {self._epochs}/{self._epochs}") if self.bar else None

    def _tell(self, parts: Callable[[], list[str]], least: int = 1) -> None:
        """Move the bar, or print a line within an epoch, with at least so many parts, if it is time."""
        now = time.perf_counter()
        if self._bar:
            if now - self._shown >= REFRESH:
                self._shown = now
                self._bar.show(self._label, self._done, self._steps, GAP.join(filter(None, parts())))
        elif now - self._printed > MINUTE or self._is_early(now):
            of = f"/{self._steps:,}" if self._steps else ""
            self._print(joined([self._label, f"step {self._done:,}{of}", *parts()], 2 + least, self._console.width))

    def _is_early(self, now: float) -> bool:
        """Whether nobody knows yet that this lives, and it will be more than a minute until the epoch's line."""
        if self._told or not self._trains or now - self._printed < EARLY or not self._steps:
            return False
        timed = self._done - self._first if self._stop > self._first_stop else 0  # the first step may take longer
        return timed > 0 and (self._steps - self._done) * (self._stop - self._first_stop) / timed > MINUTE

    def _print(self, line: str | Text) -> None:
        say(self._console, line)
        self._printed, self._told = time.perf_counter(), True

    def _part(self) -> float:
        """Return how much of the epoch is done; 0 where its length is not known."""
        return min(self._done / self._steps, 1.0) if self._steps else 0.0

    def _speed(self) -> str:
        steps, seconds = self._done - self._done_before, self._stop - self._epoch_start
        if not steps or seconds <= 0:
            return ""
        if self._per_step is None:
            return f"{steps / seconds:,.1f} steps/s"
        return f"{self._per_step * steps / seconds:,.0f} images/s"

    def _left(self, epochs_done: float) -> str:
        """Estimate the time left from what this process has trained since it started."""
        trained = epochs_done - self._counted_from
        if trained <= 0:  # an earlier process made the last step of the epoch, or its length is not known
            return "" if self._steps is None else "? left"
        seconds = (time.perf_counter() - self._start) * (self._epochs - epochs_done) / trained
        return f"{duration_text(seconds)} left"

    def _metrics(self, logs: dict[str, Any] | None, first: str = "") -> list[str]:
        ours = isinstance(self.model, SpecModel)
        of_side_losses = self.model.side_figures if ours else []
        of_scores = self.model.score_metrics.hidden if ours and self.model.score_metrics else ()
        validated = (f"val_{name}" for name in of_side_losses)
        hidden = {"images_per_second", "learning_rate", *of_side_losses, *validated, *of_scores}
        return metric_texts(logs, hidden, first)
