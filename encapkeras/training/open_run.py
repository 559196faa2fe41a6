"""A run that is open: its network, its data, its folder, and the callbacks of its training."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import keras
from rich.console import Console

from encapkeras.data import DataSplits
from encapkeras.distribution import DataParallel
from encapkeras.distribution.processes import connected
from encapkeras.errors import DataError, DistributionError, RunFolderError, TrainingError, launched_with, printable
from encapkeras.summary.main_settings import main_settings
from encapkeras.summary.node_table import parameters
from encapkeras.training import callbacks
from encapkeras.training.analysis_images import sample_images
from encapkeras.training.callbacks.checkpoints import LOWEST
from encapkeras.training.callbacks.resume import OtherCallbacksError
from encapkeras.training.check import other_callbacks_of_run
from encapkeras.training.measure import selecting_metric
from encapkeras.training.memory.advice import advice_for_training
from encapkeras.training.memory.out_of_memory import explain_out_of_memory
from encapkeras.training.non_finite import NonFiniteTrainingError
from encapkeras.training.optimizer.make_optimizer import ConstantRate, has_schedule
from encapkeras.training.output import say
from encapkeras.training.run.run_folder import RunFolder

if TYPE_CHECKING:
    from encapkeras.model.spec_model import SpecModel
    from encapkeras.spec.spec import Spec


class Asked(NamedTuple):
    """What the caller asked for beside the run."""

    callbacks: list[keras.callbacks.Callback]
    console: Console
    bar: bool


@dataclass
class OpenRun:
    """A run with all that its epochs and its test need."""

    spec: Spec
    model: SpecModel
    splits: DataSplits
    folder: RunFolder
    asked: Asked
    note_start: Callable[[], None] = lambda: None  # in the first process, as soon as nothing can refuse to resume

    def __post_init__(self) -> None:
        self.own_splits = self.splits.only_part(connected().rank, connected().count)
        self.strategy = DataParallel(sync_batch_norm=self.spec.train.sync_batch_norm)
        self.stopwatch = callbacks.Stopwatch(self.splits.train.num_images)
        best = self.folder.best if self.splits.validation else None
        select = selecting_metric(self.splits.info, self.spec.train.select)
        self.checkpoints = callbacks.Checkpoints(best, self.folder.last, select)
        self.progress = callbacks.Progress(self.splits.train.num_images, self.asked.console, self.asked.bar)

    def say(self, *lines: str) -> None:
        """Print lines, in the first process."""
        say_first(self.asked.console, *lines)

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Add to an error or Ctrl-C how to save memory, and which checkpoints are on the disk."""
        try:
            with explain_out_of_memory(advice_for_training(self.model, self.folder.path)):
                yield
        except OtherCallbacksError as error:
            raise other_callbacks_of_run(error, len(self.asked.callbacks), self.folder.path) from None
        except (KeyboardInterrupt, TrainingError, RunFolderError, DataError, DistributionError) as stop:
            text = (str(stop) or "interrupted").removesuffix(".")
            again = self._how_to_continue(isinstance(stop, NonFiniteTrainingError))
            raise type(stop)(f"{text}. {self._saved_weights()} {again}") from None
        except SystemExit:  # SIGTERM, or another process has ended
            if connected().is_first:
                print(self._how_to_continue(), file=sys.stderr)
            raise

    def _saved_weights(self) -> str:
        last, best = self.checkpoints.last_epoch, self.checkpoints.best_epoch
        if last is None and self.folder.last.is_file():
            return f"The weights of earlier epochs are saved in {self.folder.last.parent}."
        if last is None:
            return "No epoch was complete, so no weights are saved."
        saved = f"The weights after epoch {last} are saved in {self.folder.last}"
        return f"{saved}, those of the best epoch, {best}, in {self.folder.best}." if best else f"{saved}."

    def _how_to_continue(self, with_changes: bool = False) -> str:
        launcher = ", started with torchrun as before" if connected().count > 1 else ""
        launcher = f" {launched_with()}" if launched_with() else launcher
        train, how = self.spec.train, "Continue with other settings" if with_changes else "Continue with"
        rate = f"optimizer.learning_rate={train.optimizer.learning_rate / 10:g}"
        change = f"train.{rate if train.clip_norm else 'clip_norm=1'}" if with_changes else ""
        if self.asked.callbacks:  # a command would be without them
            how += f" ({change})" if change else ""
            return f"{how}: train(..., run_dir='{self.folder.path}', resume=True, callbacks=[...]){launcher}"
        return f"{how}: {self.folder.resume_command}{f' --set {change}' if change else ''}{launcher}"


def callbacks_of(run: OpenRun) -> list[keras.callbacks.Callback]:
    """Make the callbacks of a run in their order; `Resume` is the first, and saves what the others remember."""
    settings, splits, folder = run.spec.train, run.splits, run.folder
    pictured = splits.info.samples == "images"  # others have no pictures
    images = splits.train.batch(0)[0] if pictured and connected().is_first else None
    shown = {**main_settings(run.spec), "parameters": parameters(run.model)}
    others = [
        *([] if has_schedule(settings) else [ConstantRate(settings.optimizer.learning_rate)]),
        run.stopwatch,
        callbacks.LossSchedule(),
        callbacks.NonFiniteStop(settings.max_bad_batches, folder.bad_batches),
        callbacks.ValidateAverage(),
        run.checkpoints,
        callbacks.MetricsFile(folder.metrics),
        callbacks.TensorBoard(
            folder.tensorboard,
            splits.validation if pictured and splits.info.task == "classes" else None,
            settings=shown,
            training_images=images,
        ),
        run.progress,
    ]
    if settings.early_stopping:
        patience, least = settings.early_stopping.patience, settings.early_stopping.min_delta
        select = selecting_metric(splits.info, settings.select)
        mode = "min" if select.endswith(LOWEST) else "max"
        others.append(keras.callbacks.EarlyStopping(select, least, patience, mode=mode))
    if settings.analysis:
        some, every = sample_images(splits, "validation", settings.analysis.images), settings.analysis.every
        others.append(
            callbacks.RoutingAnalysis(folder.analysis, some.images, some.labels, every=every, split=some.name)
        )
    others += run.asked.callbacks
    saving = settings.resume_state
    resume = callbacks.Resume(folder.resume, run.own_splits.train, others, saving.minutes, saving.epochs, saving.keep)
    noting = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: run.note_start())
    return [resume, noting, *others]


def say_first(console: Console, *lines: str) -> None:
    """Print lines, in the first process."""
    if connected().is_first:
        for line in lines:
            say(console, printable(line))
