"""From a spec to a finished run, in four phases: check, open the run, train its epochs, test its best weights once."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import keras
import torch
from rich.console import Console

from encapkeras.analysis import routing_layers
from encapkeras.data import DataSplits, load
from encapkeras.distribution import DataParallel, initialize
from encapkeras.distribution.processes import (
    broadcast,
    connected,
    propagate_errors,
    report_lost_processes,
    run_on_first,
)
from encapkeras.errors import DataError, DistributionError, RunFolderError, TrainingError, launched_with, printable
from encapkeras.files import own_folder, write_json
from encapkeras.functional.torch_support.optional_compile import enable_compile
from encapkeras.model.load_model import load_model
from encapkeras.model.spec_model import build_model
from encapkeras.plugins import used_plugins
from encapkeras.summary.main_settings import main_settings
from encapkeras.summary.node_table import parameters
from encapkeras.training import callbacks
from encapkeras.training.analysis_images import sample_images
from encapkeras.training.callbacks.resume import OtherCallbacksError
from encapkeras.training.check import (
    Verbose,
    check_callbacks,
    check_device,
    check_options,
    check_same_images,
    check_same_spec,
    check_settings,
    check_verbose,
    other_callbacks_of_run,
)
from encapkeras.training.introduction import introduction
from encapkeras.training.measure import (
    check_fits,
    compile_with_losses,
    measure_metrics,
    segments_of,
    selecting_metric,
)
from encapkeras.training.memory.advice import advice_for_training
from encapkeras.training.memory.out_of_memory import explain_out_of_memory
from encapkeras.training.memory.peak_memory import PeakMemory
from encapkeras.training.non_finite import NonFiniteTrainingError
from encapkeras.training.optimizer.make_optimizer import ConstantRate, has_schedule, make_optimizer
from encapkeras.training.output import say, stdout_console
from encapkeras.training.run.identity import check_checkpoint, check_images, check_state, noted_images
from encapkeras.training.run.known_runs import newest_unfinished
from encapkeras.training.run.resume_state import StateFiles, check_model_state
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.run.start import (
    LaunchedRun,
    Start,
    decide_start,
    describe_environment,
    numeric_differences,
)

if TYPE_CHECKING:
    from encapkeras.model.spec_model import SpecModel
    from encapkeras.spec.spec import Spec

_Made = TypeVar("_Made")
LONGEST_WAIT = 3600.0  # seconds that processes wait for one that reads its data, which may have to be fetched first
SMALL_FILES = 10_000_000  # bytes: more than all files of a run that hold no weights


def train(
    spec: Spec,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Verbose = "auto",
) -> dict[str, Any]:
    """Train the network of a spec, and test it once with the weights that were best on validation.

    Everything that can be known to be wrong is found before the run folder is made. On the same machine the same seed
    gives the same numbers, also if the training is interrupted at any moment and resumed.

    Args:
        spec: A loaded spec.
        run_dir: The run folder; by default `runs/<name of the spec>/<date and time>`.
        overwrite: Whether a run that is in that folder already may be replaced.
        resume: Whether a run in that folder is resumed; without one, it starts there. Settings of `train` may have
            changed, but for the seed; the network and the data may not.
        callbacks: More Keras callbacks, called after ours; of several processes, in each. Resume states hold their
            attributes that are plain values, so a run must be resumed with callbacks of the same classes.
        verbose: 0 prints nothing; 1 prints lines and, on a terminal or in a notebook, shows a bar; 2 prints lines
            alone; `auto` is 1. Of several processes, the first prints.

    Returns:
        The content of `results.json`: `test_accuracy`, `test_loss`, `validation_accuracy` and `best_epoch` (both None
        without a validation part, where the last weights are tested), with masks `test_mean_iou` and
        `validation_mean_iou`, `parameters`, `images_per_second`, `seconds`,
        and `peak_memory_mib`, beyond the program itself (None where the system does not report it).

    Raises:
        DataError: The data set cannot be read.
        RunFolderError: The run folder holds something already, or cannot be written.
        ArgumentError: The routing of a network without any is to be analysed; both `overwrite` and `resume`; or
            `callbacks` or `verbose` cannot be that.
        TrainingError: The spec does not fit the data, the processes or the run to resume; out of memory; or the loss
            or a gradient is not finite.
        DistributionError: The processes cannot be connected, or one of the others has ended.
        KeyboardInterrupt: Ctrl-C; its text names the weights that are saved.
        SystemExit: SIGTERM, after the resume state was saved; or another process has ended the training for all.
    """
    initialize(LONGEST_WAIT)
    launched = LaunchedRun()
    with propagate_errors():
        asked = _Asked(check_callbacks(callbacks), stdout_console(quiet=check_verbose(verbose) == 0), verbose != 2)
        start = _check(spec, launched, run_dir, overwrite, resume)
        if start.results is not None:
            _say(
                asked.console,
                f"run {start.path} is finished already; for more epochs, start a new run in another folder",
            )
            return start.results
        memory = PeakMemory()
        with _claimed(spec, start, asked.console) as folder, contextlib.closing(folder.lock):
            run = _open_run(spec, start, launched, folder, asked)
            with own_folder(folder.path) if connected().is_first else contextlib.nullcontext():  # others may lack it
                with report_lost_processes(), run.explain_errors(), enable_compile(spec.train.compile):
                    trained = _train_epochs(run)
                    tested = _test(run)
                peak = {"peak_memory_mib": memory.mebibytes(_device_of(run.model))}
                return _close(run, {**tested, **trained, **peak})


class _Asked(NamedTuple):
    """What the caller asked for beside the run."""

    callbacks: list[keras.callbacks.Callback]
    console: Console
    bar: bool


@dataclass
class _Run:
    """A run with all that its epochs and its test need."""

    spec: Spec
    model: SpecModel
    splits: DataSplits
    folder: RunFolder
    asked: _Asked
    note_start: Callable[[], None] = lambda: None  # in the first process, as soon as nothing can refuse to resume

    def __post_init__(self) -> None:
        self.own_splits = self.splits.only_part(connected().rank, connected().count)
        self.strategy = DataParallel(sync_batch_norm=self.spec.train.sync_batch_norm)
        self.stopwatch = callbacks.Stopwatch(self.splits.train.num_images)
        best = self.folder.best if self.splits.validation else None
        self.checkpoints = callbacks.Checkpoints(best, self.folder.last, selecting_metric(self.splits.info))
        self.progress = callbacks.Progress(self.splits.train.num_images, self.asked.console, self.asked.bar)

    def say(self, *lines: str) -> None:
        """Print lines, in the first process."""
        _say(self.asked.console, *lines)

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


def _check(spec: Spec, launched: LaunchedRun, run_dir: str | Path | None, overwrite: bool, resume: bool) -> Start:
    """Check all that needs neither network nor data, and decide whether a run starts or resumes."""
    check_same_spec(spec)
    check_options(spec, run_dir, overwrite, resume)
    return run_on_first(lambda: decide_start(spec, launched, run_dir, overwrite, resume))


@contextlib.contextmanager
def _claimed(spec: Spec, start: Start, console: Console) -> Iterator[RunFolder]:
    """Give the run's folder; by default the first process makes it at once, so that no other training takes it."""
    with contextlib.ExitStack() as unless_used:
        path = start.path
        if path is None:
            _say_of_unfinished(spec.name, console)
            path = run_on_first(lambda: unless_used.enter_context(RunFolder.claimed(spec.name)).path)
        yield RunFolder(path)


def _say_of_unfinished(name: str, console: Console) -> None:
    newest = newest_unfinished(name) if connected().is_first else None
    if newest:
        _say(console, f"an unfinished run of '{name}' is in {newest.path}. Continue that with: {newest.resume_command}")


def _open_run(spec: Spec, start: Start, launched: LaunchedRun, folder: RunFolder, asked: _Asked) -> _Run:
    """Build the network, load the data and check that they go together; only then make or change the run folder."""
    keras.utils.set_random_seed(spec.train.seed)
    model = _in_turns(lambda: build_model(spec))
    if spec.train.analysis:
        with propagate_errors():
            routing_layers(model)
    splits = _in_turns(lambda: load(check_settings(spec), seed=spec.train.seed))
    check_same_images(splits.fingerprint)
    with propagate_errors(), explain_out_of_memory():  # of all processes, before one of them changes the folder
        check_fits(model, splits.info)
        check_device(spec.train, _device_of(model))
        optimizer = make_optimizer(spec.train, len(splits.train), model)
        compile_with_losses(model, optimizer, splits.info.classes_per_image, segments_of(splits.info))
    run = _Run(spec, model, splits, folder, asked)
    device = _device_of(model)
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    environment = describe_environment(f"{device}{gpu}", spec.train.seed, connected().count)
    run.checkpoints.run = run_on_first(lambda: _write_start(run, start, launched, environment))
    run.say(*introduction(spec, parameters(model), splits, folder.path, environment))
    return run


def _in_turns(make: Callable[[], _Made]) -> _Made:
    """Make what may be read or downloaded; one process of each machine first, so that the others find the files."""
    is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    for turn in (True, False):
        with propagate_errors(), explain_out_of_memory():
            if is_first_here == turn:
                made = make()
    return made


def _write_start(run: _Run, start: Start, launched: LaunchedRun, environment: dict[str, Any]) -> str | None:
    """Make the run folder, or note in it that the run is resumed; return the run's name, None of an older version."""
    folder, resolved, images = run.folder, run.spec.resolved, run.splits.fingerprint
    if not start.resumes:
        name: str | None = secrets.token_hex(8)
        launched.makes(folder)
        needed_bytes = _bytes_of_weights(run) + SMALL_FILES
        environment = {**environment, "run": name, "data": images}
        folder.create(resolved, environment, start.overwrite, needed_bytes, used_plugins(resolved))
    else:
        folder.hold()
        newest, started = StateFiles(folder.resume).newest(), folder.read_environment()
        name = str(started["run"]) if "run" in started else None
        if newest:  # before anything in the folder changes
            check_state(folder, *newest)
            check_model_state(run.model, newest[1]["model"])
        check_images(folder, images)
        changes = [f"changed since the run was started: {change}" for change in start.changes]
        run.say(*changes, *numeric_differences(started, environment))
        if not noted_images(started):
            environment = {**environment, "data": images}
            run.say("the run has no note of its images, so it is unknown whether they are still the same")
        run.say(f"resumes at {StateFiles(folder.resume).position()}")
        run.note_start = lambda: folder.note_resumption(resolved, environment, start.changes)
    launched.made(folder)
    return name


def _bytes_of_weights(run: _Run) -> int:
    """Return what checkpoints and resume states take on the disk while one more of each is written."""
    run.model.optimizer.build(run.model.trainable_variables)
    weights: int = sum(weight.value.nbytes for weight in run.model.weights)
    state: int = weights + sum(variable.value.nbytes for variable in run.model.optimizer.variables)
    return 3 * weights + (run.spec.train.resume_state.keep + 1) * state


def _train_epochs(run: _Run) -> dict[str, Any]:
    """Train all epochs; return the metrics of `results.json` that the training gives."""
    with propagate_errors():
        in_order = callbacks_of(run)
    run.strategy.attach(run.model)
    cudnn = torch.backends.cudnn
    with (
        _closing(in_order),
        cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32),
    ):
        run.model.fit(
            run.own_splits.train,
            validation_data=run.own_splits.validation,
            epochs=run.spec.train.epochs,
            callbacks=in_order,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    validated = {"validation_accuracy": run.checkpoints.best_accuracy}
    if run.splits.info.task == "segments":  # the best epoch is that of the best mean IoU
        accuracy = run.checkpoints.best_metrics.get("val_accuracy")
        validated = {"validation_accuracy": accuracy, "validation_mean_iou": run.checkpoints.best_accuracy}
    return {
        **validated,
        "best_epoch": run.checkpoints.best_epoch,
        "parameters": parameters(run.model),
        "images_per_second": round(run.stopwatch.images_per_second, 1),
        "seconds": round(run.stopwatch.seconds, 2),
    }


def callbacks_of(run: _Run) -> list[keras.callbacks.Callback]:
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
        others.append(keras.callbacks.EarlyStopping(selecting_metric(splits.info), least, patience, mode="max"))
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


@contextlib.contextmanager
def _closing(in_order: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Close our callbacks in the end: Keras does not call them when `fit` ends with an error."""
    with contextlib.ExitStack() as stack:
        for callback in in_order:
            if type(callback).__module__.startswith("encapkeras.") and hasattr(callback, "close"):
                stack.callback(callback.close)
        yield


def _test(run: _Run) -> dict[str, float]:
    with propagate_errors():
        validated = run.splits.validation is not None
        if connected().is_first:
            chosen = run.folder.chosen(validated)
            check_checkpoint(run.folder, chosen)
            best = load_model(chosen)
        else:
            best = build_model(run.spec)
        info = run.splits.info
        compile_with_losses(best, classes_per_image=info.classes_per_image, segments=segments_of(info))
    with contextlib.closing(run.progress):
        found = measure_metrics(run.strategy.attach(best), run.own_splits.test, [run.progress])
    return {f"test_{name}": value for name, value in found.items()}


def _close(run: _Run, results: dict[str, Any]) -> dict[str, Any]:
    """Write the first process' results, and remove the resume states, which nothing needs any more."""
    results = broadcast(results)
    run_on_first(lambda: write_json(run.folder.results, results))
    run_on_first(lambda: StateFiles(run.folder.resume).remove(run.folder.lock))
    mean_iou = f", mean IoU {results['test_mean_iou']:.4f}" if "test_mean_iou" in results else ""
    run.say(f"test accuracy {results['test_accuracy']:.4f}, loss {results['test_loss']:.4f}{mean_iou}")
    return results


def _say(console: Console, *lines: str) -> None:
    if connected().is_first:
        for line in lines:
            say(console, printable(line))


def _device_of(model: SpecModel) -> torch.device:
    device: torch.device = model.weights[0].value.device
    return device
