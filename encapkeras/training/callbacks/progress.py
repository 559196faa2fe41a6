"""The progress of a training, on the terminal."""

from __future__ import annotations

import datetime
import time
from typing import Any

import keras
import rich.progress
from rich.console import Console
from rich.table import Column

from encapkeras.errors import printable
from encapkeras.model.spec_model import SpecModel
from encapkeras.training.callbacks.first_process import in_first_process


@in_first_process
class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Shows a bar with images/s and the time left for all epochs, and a line for each finished epoch.

    Where the output is not a terminal, only the lines are printed. It shows `images_per_second` where a `Stopwatch`
    comes before it, and leaves out the metrics that side losses report in addition to their values.

    Args:
        images: How many images an epoch trains on.
        console: Where to print.
    """

    KEPT = ()

    def __init__(self, images: int, console: Console) -> None:
        super().__init__()
        self.images = images
        self.console = console
        self._bar: rich.progress.Progress | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show the bar."""
        self._counted_from = -1.0  # the place in the training, in epochs, from which on the time is taken
        self._epochs, self._steps = self.params["epochs"], self.params["steps"]
        if self.console.is_terminal:
            epoch = f"epoch {self._epochs}/{self._epochs}"
            columns = (  # a narrow terminal cuts the last one
                rich.progress.TextColumn("{task.description}", table_column=Column(min_width=len(epoch), no_wrap=True)),
                rich.progress.BarColumn(16, table_column=Column(min_width=16, no_wrap=True)),
                rich.progress.TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            )
            self._bar = rich.progress.Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self._steps, text="")
            self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Empty the bar."""
        self._epoch, self._epoch_start, self._part_before = epoch, time.perf_counter(), 0.0
        if self._counted_from < 0:
            self._counted_from, self._start = epoch, self._epoch_start
        if self._bar:
            self._bar.update(self._task, description=f"epoch {epoch + 1}/{self._epochs}", completed=0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar. A step without logs was made by an earlier process, and shows nothing of the time it takes."""
        part = (batch + 1) / self._steps
        if not logs:
            self._part_before, self._counted_from = part, self._epoch + part
            self._start = self._epoch_start = time.perf_counter()
            return
        if not self._bar:
            return
        speed = self.images * (part - self._part_before) / (time.perf_counter() - self._epoch_start)
        # Speed and time first: a narrow terminal cuts the end off.
        text = f"{speed:,.0f} images/s  {self._left(self._epoch + part)} left  {self._metrics_text(logs)}"
        self._bar.update(self._task, completed=batch + 1, text=text)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show that validation is running."""
        if self._bar:
            self._bar.update(self._task, text="validation")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the epoch's line."""
        logs = logs or {}
        width = len(str(self._epochs))
        parts = [f"epoch {epoch + 1:{width}}/{self._epochs}", self._metrics_text(logs)]
        if "images_per_second" in logs:
            parts.append(f"{logs['images_per_second']:,.0f} images/s")
        parts.append(f"{self._left(epoch + 1)} left")
        self.console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, also after an error."""
        if self._bar:
            self._bar.stop()

    def _left(self, epochs_done: float) -> str:
        """Estimate the time left from what this process has trained since it started."""
        trained = epochs_done - self._counted_from
        if not trained:  # an earlier process made the last step of the epoch
            return "?"
        seconds = (time.perf_counter() - self._start) * (self._epochs - epochs_done) / trained
        return str(datetime.timedelta(seconds=round(seconds)))

    def _metrics_text(self, logs: dict[str, Any] | None) -> str:
        of_side_losses = self.model.side_figures if isinstance(self.model, SpecModel) else []
        hidden = {"images_per_second", "learning_rate", *of_side_losses, *(f"val_{name}" for name in of_side_losses)}
        shown = {printable(name): value for name, value in (logs or {}).items() if name not in hidden}
        return "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
