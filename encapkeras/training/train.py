"""From a spec to a finished run, in four phases: check, open the run, train its epochs, test its best weights once."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import torch
from rich.console import Console

from encapkeras.analysis import routing_layers
from encapkeras.data import load
from encapkeras.distribution import initialize
from encapkeras.distribution.processes import (
    broadcast,
    connected,
    propagate_errors,
    report_lost_processes,
    run_on_first,
)
from encapkeras.files import own_folder, write_json
from encapkeras.functional.torch_support.optional_compile import enable_compile
from encapkeras.model.load_model import load_model
from encapkeras.model.spec_model import build_model
from encapkeras.plugins import used_plugins
from encapkeras.summary.node_table import parameters
from encapkeras.training.check import (
    Verbose,
    check_callbacks,
    check_device,
    check_options,
    check_same_images,
    check_same_spec,
    check_settings,
    check_verbose,
)
from encapkeras.training.class_weights import with_class_weights
from encapkeras.training.introduction import introduction
from encapkeras.training.measure import (
    check_fits,
    compile_with_losses,
    measure_metrics,
    segments_of,
    validation_results,
)
from encapkeras.training.memory.out_of_memory import explain_out_of_memory
from encapkeras.training.memory.peak_memory import PeakMemory
from encapkeras.training.open_run import Asked, OpenRun, callbacks_of, say_first
from encapkeras.training.optimizer.make_optimizer import make_optimizer
from encapkeras.training.output import stdout_console
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
from encapkeras.training.score_metrics import EvaluationScores

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
        The content of `results.json`: `test_accuracy`, `test_loss` and the other metrics of the test, `test_classes`
        with those of each class, `validation_accuracy`, `validation_loss`, the other metrics of the validation, and
        `best_epoch` (None without a validation part, where the last weights are tested), with masks `test_mean_iou` and
        `validation_mean_iou` in place of the others, `parameters`, `images_per_second`, `seconds`,
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
        asked = Asked(check_callbacks(callbacks), stdout_console(quiet=check_verbose(verbose) == 0), verbose != 2)
        start = _check(spec, launched, run_dir, overwrite, resume)
        if start.results is not None:
            say_first(
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
        again = f"Continue that with: {newest.resume_command}"
        say_first(console, f"an unfinished run of '{name}' is in {newest.path}. {again}")


def _open_run(spec: Spec, start: Start, launched: LaunchedRun, folder: RunFolder, asked: Asked) -> OpenRun:
    """Build the network, load the data and check that they go together; only then make or change the run folder."""
    keras.utils.set_random_seed(spec.train.seed)
    model = _in_turns(lambda: build_model(spec, pretrained=not start.resumes))
    if spec.train.analysis:
        with propagate_errors():
            routing_layers(model)
    splits = _in_turns(lambda: load(check_settings(spec), seed=spec.train.seed))
    check_same_images(splits.fingerprint)
    with propagate_errors(), explain_out_of_memory():  # of all processes, before one of them changes the folder
        check_fits(model, splits.info)
        check_device(spec.train, _device_of(model))
        optimizer, info = make_optimizer(spec.train, len(splits.train), model), splits.info
        compile_with_losses(model, optimizer, info.classes_per_image, segments_of(info), spec.train.select)
        splits = with_class_weights(splits, spec.train.class_weights)
    run = OpenRun(spec, model, splits, folder, asked)
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


def _write_start(run: OpenRun, start: Start, launched: LaunchedRun, environment: dict[str, Any]) -> str | None:
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


def _bytes_of_weights(run: OpenRun) -> int:
    """Return what checkpoints and resume states take on the disk while one more of each is written."""
    run.model.optimizer.build(run.model.trainable_variables)
    weights: int = sum(weight.value.nbytes for weight in run.model.weights)
    state: int = weights + sum(variable.value.nbytes for variable in run.model.optimizer.variables)
    return 3 * weights + (run.spec.train.resume_state.keep + 1) * state


def _train_epochs(run: OpenRun) -> dict[str, Any]:
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
    with propagate_errors():
        validated = validation_results(run.checkpoints, run.model)
    return {
        **validated,
        "best_epoch": run.checkpoints.best_epoch,
        "parameters": parameters(run.model),
        "images_per_second": round(run.stopwatch.images_per_second, 1),
        "seconds": round(run.stopwatch.seconds, 2),
    }


@contextlib.contextmanager
def _closing(in_order: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Close our callbacks in the end: Keras does not call them when `fit` ends with an error."""
    with contextlib.ExitStack() as stack:
        for callback in in_order:
            if type(callback).__module__.startswith("encapkeras.") and hasattr(callback, "close"):
                stack.callback(callback.close)
        yield


def _test(run: OpenRun) -> dict[str, Any]:
    with propagate_errors():
        validated = run.splits.validation is not None
        if connected().is_first:
            chosen = run.folder.chosen(validated)
            check_checkpoint(run.folder, chosen)
            best = load_model(chosen)
        else:
            best = build_model(run.spec, pretrained=False)
        info = run.splits.info
        compile_with_losses(best, classes_per_image=info.classes_per_image, segments=segments_of(info))
    with contextlib.closing(run.progress):
        found = measure_metrics(run.strategy.attach(best), run.own_splits.test, [run.progress])
    tested: dict[str, Any] = {f"test_{name}": value for name, value in found.items()}
    if isinstance(best.score_metrics, EvaluationScores):
        tested["test_classes"] = best.score_metrics.measured().rows()
    return tested


def _close(run: OpenRun, results: dict[str, Any]) -> dict[str, Any]:
    """Write the first process' results, and remove the resume states, which nothing needs any more."""
    results = broadcast(results)
    run_on_first(lambda: write_json(run.folder.results, results))
    run_on_first(lambda: StateFiles(run.folder.resume).remove(run.folder.lock))
    mean_iou = f", mean IoU {results['test_mean_iou']:.4f}" if "test_mean_iou" in results else ""
    run.say(f"test accuracy {results['test_accuracy']:.4f}, loss {results['test_loss']:.4f}{mean_iou}")
    return results


def _device_of(model: SpecModel) -> torch.device:
    device: torch.device = model.weights[0].value.device
    return device
