"""What can be known to be wrong with a training before anything is read, built or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import keras
import torch

from encapkeras.data import DataSettings
from encapkeras.data.fingerprint import Fingerprint, data_differences
from encapkeras.distribution.processes import broadcast, connected, propagate_errors, restarts_lose_state
from encapkeras.errors import ArgumentError, DistributionError, TrainingError
from encapkeras.functional.torch_support.optional_compile import check_compiler
from encapkeras.spec.one_class import unfit_settings
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.text import listed
from encapkeras.training.callbacks.resume import OtherCallbacksError, Resume
from encapkeras.training.measure import data_of
from encapkeras.training.run.identity import first_difference, without_places

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

_Value = TypeVar("_Value")
Verbose = Literal["auto", 0, 1, 2]
"""Those of Keras' `fit`."""


def check_options(spec: Spec, run_dir: str | Path | None, overwrite: bool, resume: bool) -> None:
    """Check what `train` was called with, alone and in several processes."""
    if spec.sweep:
        raise TrainingError(
            f"'{spec.name}' has a sweep, and so describes several networks. Train them with encapkeras compare or "
            "search, or the spec as it is with --set sweep=null."
        )
    if resume and (overwrite or run_dir is None):
        raise ArgumentError("resume needs the run's folder, and overwrite would remove what it resumes from")
    if restarts_lose_state() and not resume:
        raise TrainingError(
            "torchrun may start this training again (--max-restarts), and, with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, "
            "it cannot know then which run to resume. Name the folder with --resume DIR, which starts the run there if "
            "there is none."
        )
    batch, count = check_settings(spec).batch_size, connected().count
    if batch % count:
        below = batch // count * count
        sizes = " or ".join(str(size) for size in (below, below + count) if size)
        dividing = ", ".join(str(number) for number in range(1, batch + 1) if batch % number == 0)
        raise TrainingError(
            f"data.batch_size is that of all processes together, and {batch} images cannot be divided equally among "
            f"{count}. Set it to {sizes}, or start one of {dividing} processes."
        )


def check_verbose(verbose: Any) -> Verbose:
    """Return how much is to be printed, if it is a possible value."""
    if verbose not in get_args(Verbose):
        raise ArgumentError(
            f"verbose is 'auto', 0 (nothing), 1 (lines, and a bar on a terminal) or 2 (lines); received {verbose!r}"
        )
    return verbose  # type: ignore[no-any-return]


def check_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return the caller's callbacks as a list, after checking that they are some, and leave saving to the run."""
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if not isinstance(callbacks, list | tuple | None):
        raise ArgumentError(f"callbacks must be a list of Keras callbacks; received {type(callbacks).__name__}")
    for callback in callbacks or ():
        if isinstance(callback, type):
            name = callback.__name__
            raise ArgumentError(f"callbacks has the class {name} itself; make a callback of it: {name}(...)")
        if not isinstance(callback, keras.callbacks.Callback):
            raise ArgumentError(f"callbacks must be Keras callbacks; received {type(callback).__name__}")
        if isinstance(callback, Resume | keras.callbacks.BackupAndRestore):
            raise ArgumentError(
                f"train saves and resumes its run itself, so it takes no {type(callback).__name__}: leave it out, and "
                "give run_dir and resume=True. train.resume_state in the spec says how often it saves."
            )
    return list(callbacks or ())


def check_same_spec(spec: Spec) -> None:
    """Check that all processes were started with the same spec; where the data are on each machine may differ."""
    own = without_places(spec.resolved)
    _check_same(lambda first: first_difference(first, own), own, "another spec than the first")


def check_same_images(own: Fingerprint) -> None:
    """Check that all processes read the same images."""
    _check_same(lambda first: data_differences(first, own), own, "other images than the first")


def _check_same(difference_from: Callable[[_Value], str], own: _Value, what: str) -> None:
    first = broadcast(own)
    with propagate_errors():
        difference = difference_from(first)
        if difference:
            rank, count = connected().rank, connected().count
            raise DistributionError(f"process {rank} of {count} (here) has {what} (there): {difference}")


def check_settings(spec: Spec) -> DataSettings:
    """Return the `data:` section of a spec, after checking that it has the validation part that `train:` needs."""
    data = data_of(spec)
    if spec.train.early_stopping and not data.has_validation:
        raise TrainingError(
            "train.early_stopping watches the validation, but data.validation is 0. Set data.validation "
            "above 0, or remove train.early_stopping."
        )
    select = spec.train.select
    if select != TrainSettings().select and not data.has_validation:
        raise TrainingError(
            f"train.select is {select}, but data.validation is 0. Set data.validation above 0, or remove train.select."
        )
    if data.balance and spec.train.class_weights == "balanced":
        raise TrainingError(
            "data.balance draws all classes equally often, and train.class_weights: balanced weighs them as if they "
            "were not. Use one of them."
        )
    if spec.train.analysis and not data.has_validation:
        raise TrainingError(
            "train.analysis looks at validation images, but data.validation is 0. Set data.validation above 0, or "
            "remove train.analysis; encapkeras analyse works without."
        )
    unfit = unfit_settings(data, spec.train, spec.info) if spec.info else {}
    if unfit:
        raise TrainingError("\n".join(f"{path} {text}" for path, text in unfit.items()))
    return data


def other_callbacks_of_run(error: OtherCallbacksError, own: int, folder: Path) -> TrainingError:
    """Say how to resume a run with the callbacks that it was started with; `own` of the given are the caller's."""
    ours = len(error.given) - own
    if error.saved[:ours] != error.given[:ours]:  # a setting or a version has changed them
        return TrainingError(str(error))
    saved, given = error.saved[ours:], error.given[ours:]
    made = f", callbacks=[{', '.join(f'{name}(...)' for name in saved)}]" if saved else ""
    return TrainingError(
        f"the run in {folder} was saved with {listed(saved) or 'no'} in callbacks; now there is "
        f"{listed(given) or 'none'}. Resume it in Python, with callbacks of the same classes in the same order: "
        f"train(spec, run_dir='{folder}', resume=True{made})"
    )


def check_device(settings: TrainSettings, device: torch.device) -> None:
    """Check that the device can train in the precision, and with the compiler, that the settings ask for."""
    if settings.precision == "float16" and device.type == "cpu":
        raise TrainingError(
            "train.precision is float16, which needs a GPU; this training would be on the CPU. Set train.precision to "
            "bfloat16 or float32, or choose a GPU with --device."
        )
    if settings.compile:
        check_compiler(device)
