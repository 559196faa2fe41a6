"""From a spec to a finished run: build, fit, choose the weights, test them once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import torch
from rich.console import Console

from encapkeras.analysis import routing_layers
from encapkeras.data import DataSettings, DataSplits, load
from encapkeras.errors import TrainingError
from encapkeras.graph import build_model, parameters
from encapkeras.graph.train_settings import TrainSettings
from encapkeras.plugins import used_plugins
from encapkeras.training import callbacks
from encapkeras.training.analysis_images import first_images
from encapkeras.training.measure import check_fits, compile_with_losses, data_of, measure
from encapkeras.training.memory import saying_how_to_save_memory
from encapkeras.training.recipe import make_optimizer
from encapkeras.training.run_folder import RunFolder, describe_environment, on_device, write_json

if TYPE_CHECKING:
    from encapkeras.graph import Spec, SpecModel

SMALL_FILES = 10_000_000  # bytes: more than all files of a run that are no checkpoints


def train(spec: Spec, run_dir: str | Path | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Trains the network of a spec and tests it once, with the weights that were best on validation.

    All that can be known to be wrong is found before the run folder is made. The seed decides the first weights, the
    order and augmentation of images and dropout: on the same machine the same seed gives the same numbers.

    Args:
        spec: A loaded spec.
        run_dir: The run folder; by default `runs/<name of the spec>/<date and time>`.
        overwrite: Whether a run that is in that folder already may be replaced.

    Returns:
        What `results.json` holds: `test_accuracy`, `test_loss`, `validation_accuracy` and `best_epoch` (both None
        without a validation part, where the last weights are tested), `parameters`, `images_per_second` and `seconds`
        of training.

    Raises:
        SpecError: The spec has mistakes.
        DataError: The data set cannot be had.
        RunFolderError: The run folder holds something already, or cannot be written.
        ArgumentError: The routing is to be analysed, and the network has none.
        TrainingError: The spec has a sweep, the network does not fit the data, the memory is not enough, or the loss is
            no longer a finite number.
        KeyboardInterrupt: Somebody pressed Ctrl-C; its text says what is kept.
    """
    if spec.sweep:
        raise TrainingError(
            f"'{spec.name}' has a sweep, and so stands for several networks. Train them with encapkeras compare, or "
            "the spec as it is with --set sweep=null."
        )
    folder = RunFolder(run_dir) if run_dir is not None else RunFolder.default(spec.name)
    folder.check_free(overwrite)
    settings = spec.train
    data = check_settings(spec)
    keras.utils.set_random_seed(settings.seed)
    with saying_how_to_save_memory():
        model = build_model(spec)
        if settings.analysis:
            routing_layers(model)
        splits = load(data, seed=settings.seed)
        check_fits(model, splits.info)
        compile_with_losses(model, make_optimizer(settings, len(splits.train)))

    environment = describe_environment(_device(model), settings.seed)
    checkpoint_bytes = sum(weight.value.nbytes for weight in model.weights)
    needed_bytes = 3 * checkpoint_bytes + SMALL_FILES
    folder.create(spec.resolved, environment, overwrite, needed_bytes, used_plugins(spec.resolved))
    console = Console()
    _introduce(console, spec.name, model, splits, environment, folder)
    results = _fit_and_test(model, splits, settings, folder, console)
    write_json(folder.results, results)
    console.print(f"test accuracy {results['test_accuracy']:.4f}, loss {results['test_loss']:.4f}", highlight=False)
    return results


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
    if spec.train.early_stopping and data.validation == 0:
        raise TrainingError(
            "train.early_stopping watches the validation accuracy, but data.validation is 0. Set data.validation "
            "above 0, or remove train.early_stopping."
        )
    if spec.train.analysis and data.validation == 0:
        raise TrainingError(
            "train.analysis looks at validation images, but data.validation is 0. Set data.validation above 0, or "
            "remove train.analysis; encapkeras analyse works without."
        )
    return data


def _fit_and_test(
    model: SpecModel, splits: DataSplits, settings: TrainSettings, folder: RunFolder, console: Console
) -> dict[str, Any]:
    with saying_how_to_save_memory():
        images, _ = splits.train.batch(0)
    watch = callbacks.Stopwatch(splits.train.num_images)
    checkpoints = callbacks.Checkpoints(folder.best, folder.last)
    board = callbacks.TensorBoard(folder.tensorboard, spec=folder.spec.read_text(encoding="utf-8"), images=images)
    progress = callbacks.Progress(splits.train.num_images, console)
    in_order = [
        # Told, not counted: Keras looks at one batch before the first epoch, which may be all of an epoch.
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: splits.train.set_epoch(epoch)),
        watch,
        callbacks.LossSchedule(),
        callbacks.NonFiniteStop(),
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
    start = time.perf_counter()
    with (
        contextlib.closing(board),
        contextlib.closing(progress),
        contextlib.ExitStack() as opened,
        _saying_what_is_kept(checkpoints),
        saying_how_to_save_memory(),
    ):
        if settings.analysis:
            shown = first_images(splits, "validation", settings.analysis.images)
            analysing = callbacks.RoutingAnalysis(folder.analysis, *shown, every=settings.analysis.every)
            in_order.append(opened.enter_context(contextlib.closing(analysing)))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            model.fit(
                splits.train,
                validation_data=splits.validation,
                epochs=settings.epochs,
                callbacks=in_order,
                shuffle=False,  # the batches are shuffled already
                verbose=0,
            )
        seconds = time.perf_counter() - start
        test = measure(folder.chosen(splits.validation is not None), splits.test, splits.info)
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
        text = "interrupted." if isinstance(stop, KeyboardInterrupt) else str(stop)
        raise type(stop)(f"{text} {kept}") from None


def _introduce(
    console: Console, name: str, model: SpecModel, splits: DataSplits, environment: dict[str, Any], folder: RunFolder
) -> None:
    validation = f"{splits.validation.num_images:,} for validation" if splits.validation else "none for validation"
    lines = [
        f"{name}: {parameters(model):,} parameters on {on_device(environment)}",
        f"{splits.train.num_images:,} images for training, {validation}, {splits.test.num_images:,} for the test",
        f"run folder {folder.path}",
    ]
    if splits.validation is None:
        lines.append("no validation part (data.validation is 0): the last epoch's weights will be tested")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _device(model: SpecModel) -> str:
    device = model.weights[0].value.device
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
