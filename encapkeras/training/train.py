"""From a spec to a finished run: build, fit, choose the weights, test them once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import torch
from rich.console import Console

from encapkeras.analysis import routing_layers
from encapkeras.data import DataSettings, DataSplits, load
from encapkeras.distribution import DataParallel, Processes, initialize
from encapkeras.distribution.processes import (
    broadcast,
    connected,
    propagate_errors,
    report_lost_processes,
    restarts_lose_state,
    run_on_first,
)
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.files import write_json
from encapkeras.functional.torch_support.optional_compile import check_compiler, compiling
from encapkeras.model.load_model import load_model
from encapkeras.model.spec_model import build_model
from encapkeras.plugins import used_plugins
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.summary.node_table import parameters
from encapkeras.training import callbacks
from encapkeras.training.analysis_images import first_images
from encapkeras.training.measure import check_fits, compile_with_losses, data_of, figures
from encapkeras.training.memory.advice import advice_for_training
from encapkeras.training.memory.out_of_memory import saying_how_to_save_memory
from encapkeras.training.memory.peak_memory import PeakMemory
from encapkeras.training.optimizer.make_optimizer import ConstantRate, has_schedule, make_optimizer
from encapkeras.training.precision import check_precision
from encapkeras.training.run.continued_run import differences_in_numbers
from encapkeras.training.run.resume_state import StateFiles, check_model_state
from encapkeras.training.run.run_folder import RunFolder, describe_environment, on_device
from encapkeras.training.run.start import LaunchedRun, Start, begin
from encapkeras.training.tensorboard.hparams import main_settings

if TYPE_CHECKING:
    from encapkeras.model.spec_model import SpecModel
    from encapkeras.spec.spec import Spec

LONGEST_WAIT = 3600.0  # seconds, of processes for one that reads its data, which may have to be fetched first
SMALL_FILES = 10_000_000  # bytes: more than all files of a run that are no checkpoints


def train(
    spec: Spec, run_dir: str | Path | None = None, overwrite: bool = False, resume: bool = False
) -> dict[str, Any]:
    """Trains the network of a spec and tests it once, with the weights that were best on validation.

    All that can be known to be wrong is found before the run folder is made. The seed decides the first weights, the
    order and augmentation of images and dropout: on the same machine the same seed gives the same numbers, also if the
    training is cut short at any moment and then resumed.

    Args:
        spec: A loaded spec.
        run_dir: The run folder; by default `runs/<name of the spec>/<date and time>`.
        overwrite: Whether a run that is in that folder already may be replaced.
        resume: Whether a run that is in that folder goes on where it ended; without one it begins. What `train` says
            may have changed since, but for the seed; the network and the data may not.

    Returns:
        What `results.json` holds: `test_accuracy`, `test_loss`, `validation_accuracy` and `best_epoch` (both None
        without a validation part, where the last weights are tested), `parameters`, `images_per_second` and `seconds`
        of training, and `peak_memory_mib`, what it needed at most beyond the program itself (None where the system does
        not tell). Of a run that is finished already, its figures.

    Raises:
        SpecError: The spec has mistakes.
        DataError: The data set cannot be had.
        RunFolderError: The run folder holds something already, or cannot be written.
        ArgumentError: The routing is to be analysed, and the network has none; or both `overwrite` and `resume`.
        TrainingError: The batches cannot be divided among the processes, the spec has a sweep, the network does not fit
            the data, the memory is not enough, the loss or a gradient is no longer finite, or the run that should go on
            is one of another spec.
        DistributionError: The processes cannot be connected, or one of the others has ended.
        KeyboardInterrupt: Somebody pressed Ctrl-C; its text says what is kept.
        SystemExit: The process was told to end (SIGTERM); what is needed to go on is saved. Or another process, which
            says why, has ended the training for all.
    """
    processes = initialize(LONGEST_WAIT)
    console = Console(quiet=not processes.is_first)
    settings = spec.train
    with propagate_errors():
        data = _checked(spec, run_dir, overwrite, resume, processes)
    launched = LaunchedRun()
    start = run_on_first(lambda: begin(spec, launched, run_dir, overwrite, resume))
    folder = RunFolder(start.path)
    if start.results is not None:
        console.print(f"run {folder.path} is finished already", markup=False, highlight=False, soft_wrap=True)
        return start.results
    keras.utils.set_random_seed(settings.seed)
    memory = PeakMemory()
    with propagate_errors(), saying_how_to_save_memory():
        model = build_model(spec)
        if settings.analysis:
            routing_layers(model)
    splits = _loaded(data, settings.seed)
    with propagate_errors(), saying_how_to_save_memory():
        check_fits(model, splits.info)
        check_precision(settings, model.weights[0].value.device)
        if settings.compile:
            check_compiler(model.weights[0].value.device)
        compile_with_losses(model, make_optimizer(settings, len(splits.train)))

    environment = describe_environment(_device(model), settings.seed, processes.count)
    run_on_first(lambda: _open(folder, start, launched, spec, model, environment, console))
    _introduce(console, spec.name, model, splits, environment, folder)
    results = _fit_and_test(model, splits, spec, folder, console)
    results["peak_memory_mib"] = memory.mebibytes(model.weights[0].value.device)
    results = broadcast(results)
    run_on_first(lambda: _close(folder, results))
    console.print(f"test accuracy {results['test_accuracy']:.4f}, loss {results['test_loss']:.4f}", highlight=False)
    return results


def _checked(
    spec: Spec, run_dir: str | Path | None, overwrite: bool, resume: bool, processes: Processes
) -> DataSettings:
    """Checks all that can be checked without files."""
    if spec.sweep:
        raise TrainingError(
            f"'{spec.name}' has a sweep, and so stands for several networks. Train them with encapkeras compare, or "
            "the spec as it is with --set sweep=null."
        )
    if resume and (overwrite or run_dir is None):
        raise ArgumentError("resume needs the run's folder, and overwrite would remove what it goes on from")
    if restarts_lose_state() and not resume:
        raise TrainingError(
            "torchrun may start this training again (--max-restarts), and, with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, "
            "nothing tells it then which run to go on with. Name the folder with --resume DIR, which begins the run "
            "there if there is none."
        )
    data = check_settings(spec)
    batch, count = data.batch_size, processes.count
    if batch % count:
        below = batch // count * count
        sizes = " or ".join(str(size) for size in (below, below + count) if size)
        dividing = ", ".join(str(number) for number in range(1, batch + 1) if batch % number == 0)
        raise TrainingError(
            f"data.batch_size is that of all processes together, and {batch} images cannot be divided equally among "
            f"{count}. Set it to {sizes}, or start one of {dividing} processes."
        )
    return data


def _loaded(data: DataSettings, seed: int) -> DataSplits:
    """The data; one process of each machine reads first, so that the others find its files in the cache."""
    is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    for turn in (True, False):
        with propagate_errors(), saying_how_to_save_memory():
            if is_first_here == turn:
                splits = load(data, seed=seed)
    return splits


def check_settings(spec: Spec) -> DataSettings:
    """Checks that the sections of a spec go together for a training.

    Args:
        spec: A loaded spec.

    Returns:
        Its `data:` section.

    Raises:
        TrainingError: It names no data, or there is no validation part for what needs one.
    """
    data = data_of(spec)
    if spec.train.early_stopping and not data.has_validation:
        raise TrainingError(
            "train.early_stopping watches the validation accuracy, but data.validation is 0. Set data.validation "
            "above 0, or remove train.early_stopping."
        )
    if spec.train.analysis and not data.has_validation:
        raise TrainingError(
            "train.analysis looks at validation images, but data.validation is 0. Set data.validation above 0, or "
            "remove train.analysis; encapkeras analyse works without."
        )
    return data


def _bytes_of_checkpoints(model: SpecModel, settings: TrainSettings) -> int:
    """What `best.keras`, `last.keras` and the states to go on from take, while one more of each is written."""
    model.optimizer.build(model.trainable_variables)
    weights: int = sum(weight.value.nbytes for weight in model.weights)
    state: int = weights + sum(variable.value.nbytes for variable in model.optimizer.variables)
    return 3 * weights + (settings.checkpoints.keep + 1) * state


def _open(
    folder: RunFolder,
    start: Start,
    launched: LaunchedRun,
    spec: Spec,
    model: SpecModel,
    environment: dict[str, Any],
    console: Console,
) -> None:
    """Makes the run folder, or notes there that the run goes on."""
    if not start.goes_on:
        needed_bytes = _bytes_of_checkpoints(model, spec.train) + SMALL_FILES
        launched.makes(folder)
        folder.create(spec.resolved, environment, start.overwrite, needed_bytes, used_plugins(spec.resolved))
        launched.made(folder)
        return
    newest = StateFiles(folder.resume).newest()
    if newest:  # before anything in the folder changes
        check_model_state(model, newest[1]["model"])
    _say_how_it_goes_on(folder, start.changes, environment, console)
    folder.go_on(spec.resolved, environment, start.changes)
    launched.made(folder)


def _close(folder: RunFolder, results: dict[str, Any]) -> None:
    write_json(folder.results, results)
    StateFiles(folder.resume).remove()


def _say_how_it_goes_on(
    folder: RunFolder, changes: Sequence[str], environment: dict[str, Any], console: Console
) -> None:
    lines = [f"changed since the run was begun: {change}" for change in changes]
    lines += differences_in_numbers(folder.began(), environment)
    lines.append(f"goes on at {StateFiles(folder.resume).position()}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _fit_and_test(
    model: SpecModel, splits: DataSplits, spec: Spec, folder: RunFolder, console: Console
) -> dict[str, Any]:
    settings, processes = spec.train, connected()
    advice = advice_for_training(model, folder.path)
    with propagate_errors(), saying_how_to_save_memory(advice):
        images = splits.train.batch(0)[0] if processes.is_first else None
    strategy = DataParallel(sync_batch_norm=settings.sync_batch_norm)
    own = splits.only_part(processes.rank, processes.count)
    watch = callbacks.Stopwatch(splits.train.num_images)
    checkpoints = callbacks.Checkpoints(folder.best, folder.last)
    board = callbacks.TensorBoard(
        folder.tensorboard, splits.validation, settings=main_settings(model, settings), training_images=images
    )
    progress = callbacks.Progress(splits.train.num_images, console)
    stop = callbacks.NonFiniteStop(settings.max_bad_batches, folder.bad_batches)
    in_order = [
        *([] if has_schedule(settings) else [ConstantRate(settings.optimizer.learning_rate)]),
        watch,
        callbacks.LossSchedule(),
        stop,
        callbacks.ValidateAverage(),
        checkpoints,
        callbacks.MetricsFile(folder.metrics),
        board,
        progress,
    ]
    if settings.early_stopping:
        stopping = settings.early_stopping
        in_order.append(
            keras.callbacks.EarlyStopping("val_accuracy", stopping.min_delta, stopping.patience, mode="max")
        )
    with (
        contextlib.closing(board),
        contextlib.closing(progress),
        contextlib.closing(stop),
        contextlib.ExitStack() as opened,
        _saying_what_is_kept(checkpoints),
        saying_how_to_save_memory(advice),
        report_lost_processes(),
        compiling(settings.compile),
    ):
        strategy.attach(model)
        if settings.analysis:
            shown = first_images(splits, "validation", settings.analysis.images)
            analysing = callbacks.RoutingAnalysis(folder.analysis, *shown, every=settings.analysis.every)
            in_order.append(opened.enter_context(contextlib.closing(analysing)))
        saved = settings.checkpoints
        resume = callbacks.Resume(folder.resume, own.train, in_order, saved.minutes, saved.epochs, saved.keep)
        opened.callback(resume.close)
        cudnn = torch.backends.cudnn
        with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
            model.fit(
                own.train,
                validation_data=own.validation,
                epochs=settings.epochs,
                callbacks=[resume, *in_order],
                shuffle=False,  # the batches are shuffled already
                verbose=0,
            )
        seconds = watch.seconds
        with propagate_errors():
            validated = splits.validation is not None
            best = load_model(folder.chosen(validated)) if processes.is_first else build_model(spec)
            compile_with_losses(best)
        test = figures(strategy.attach(best), own.test)
    return {
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "validation_accuracy": checkpoints.best_accuracy,
        "best_epoch": checkpoints.best_epoch,
        "parameters": parameters(model),
        "images_per_second": round(watch.images_per_second, 1),
        "seconds": round(seconds, 2),
    }


@contextlib.contextmanager
def _saying_what_is_kept(checkpoints: callbacks.Checkpoints) -> Iterator[None]:
    """Adds to an error or Ctrl-C which weights are on the disk."""
    try:
        yield
    except (KeyboardInterrupt, TrainingError) as stop:
        if checkpoints.last_epoch is None:
            kept = "No epoch was complete, so no weights are kept."
        else:
            kept = f"The weights after epoch {checkpoints.last_epoch} are kept in {checkpoints.last}"
            best = checkpoints.best_epoch
            kept += f", those of the best epoch, {best}, in {checkpoints.best}." if best else "."
        text = str(stop) or "interrupted"
        raise type(stop)(f"{text.removesuffix('.')}. {kept}") from None


def _introduce(
    console: Console, name: str, model: SpecModel, splits: DataSplits, environment: dict[str, Any], folder: RunFolder
) -> None:
    validation = f"{splits.validation.num_images:,} for validation" if splits.validation else "none for validation"
    lines = [
        f"{name}: {parameters(model):,} parameters on {on_device(environment)}",
        f"{splits.train.num_images:,} images for training, {validation}, {splits.test.num_images:,} for the test",
        f"run folder {folder.path}",
    ]
    count = connected().count
    if count > 1:
        each = (splits.train.batch_size or 0) // count
        lines.append(f"{count} processes, each with {each} images of a batch")
    if splits.validation is None:
        lines.append("no validation part (data.validation is 0): the last epoch's weights will be tested")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _device(model: SpecModel) -> str:
    device = model.weights[0].value.device
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
