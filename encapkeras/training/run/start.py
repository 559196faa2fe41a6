"""Which run this is: where it goes, whether it starts or resumes, on what, and what has changed since then."""

from __future__ import annotations

import datetime
import itertools
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from encapkeras import __version__
from encapkeras.data.registry import path_arguments
from encapkeras.distribution.processes import launcher_value, set_launcher_value
from encapkeras.errors import RunFolderError, TrainingError
from encapkeras.files import read_json
from encapkeras.spec.spec import Spec
from encapkeras.training.memory.kept_memory import freed_memory_is_kept
from encapkeras.training.run.identity import first_difference, same_places, spec_of_run, without_places, written_spec
from encapkeras.training.run.resume_state import StateFiles
from encapkeras.training.run.run_folder import RunFolder

# Settings of `train` that may change when a run is resumed; of the optimizer, not its kind.
_MAY_CHANGE = (
    *("epochs", "optimizer", "schedule", "learning_rates", "weight_decay", "clip_norm", "ema"),
    *("resume_state", "max_bad_batches"),
)
# What can change the last bits of floating-point numbers.
_DECIDES_NUMBERS = (
    "torch",
    "keras",
    "numpy",
    "encapkeras",
    "device",
    "kernels",
    "threads",
    "dtype",
    "processes",
    "system",
)


class Start(NamedTuple):
    """What is decided before a run starts or resumes."""

    path: Path | None  # None: the default, chosen when it is made
    resumes: bool  # the run in it
    overwrite: bool  # whether the run in it is replaced
    changes: Sequence[str] = ()  # the settings that differ from those that the run was started with
    results: dict[str, Any] | None = None  # those of a run that is finished already


class LaunchedRun:
    """The run of a call of `train`, known by its number to the same call in processes that are started again."""

    _calls = itertools.count()  # a script makes the same calls each time

    def __init__(self) -> None:
        self._name = f"run {next(self._calls)}"

    def known(self) -> tuple[Path | None, bool]:
        """Return its folder, None if it has none yet; and whether that was made."""
        stage, _, path = (launcher_value(self._name) or "").partition(" ")
        return (Path(path) if path else None), stage == "made"

    def makes(self, folder: RunFolder) -> None:
        """Note where it will be."""
        set_launcher_value(self._name, f"makes {folder.path.absolute()}")

    def made(self, folder: RunFolder) -> None:
        """Note that it is resumed from now on if processes are started again."""
        set_launcher_value(self._name, f"made {folder.path.absolute()}")


def decide_start(spec: Spec, launched: LaunchedRun, run_dir: str | Path | None, overwrite: bool, resume: bool) -> Start:
    """Decide where a run goes, and whether the one in that folder is resumed; change nothing."""
    known, was_made = launched.known()
    run_dir = known or run_dir
    folder = RunFolder(run_dir) if run_dir is not None else RunFolder.default(spec.name)
    if was_made:
        overwrite, resume = False, True
    elif known:  # it may have been made in part
        overwrite = overwrite or folder.has_remains()
    if resume and not was_made:
        folder.check_whole()
    resumes = resume and folder.was_begun()
    if resumes:
        folder.check_links()
    changes = changed_settings(folder, spec) if resumes else []
    if resumes and folder.results.is_file():
        return Start(folder.path, True, False, changes, _results_of_finished(folder, changes))
    changes += changed_places(folder, spec) if resumes else []
    resumes = resumes and _has_resume_state(folder, spec.train.epochs)
    # A run that ended before anything was saved starts over, as often as it takes.
    overwrite = overwrite or (resume and folder.has_remains())
    folder.check_free(overwrite or resumes)
    return Start(None if run_dir is None else folder.path, resumes, overwrite, changes)


def _has_resume_state(folder: RunFolder, epochs: int) -> bool:
    """Whether there is a state to resume from; without one a run starts over if it left nothing that could be lost."""
    position = StateFiles(folder.resume).position()
    if position is None:
        if not folder.has_remains():
            raise RunFolderError(
                f"run {folder.path} cannot be resumed: {folder.resume} has no resume state, though there are weights "
                "or metrics of earlier epochs. Put the resume states back, or train in another folder."
            )
        return False
    if (position.epoch, position.step) > (epochs, 0):
        raise TrainingError(
            f"run {folder.path} has reached {position}, beyond the {epochs} epochs of train.epochs. Set "
            "train.epochs to that or more."
        )
    return True


def _results_of_finished(folder: RunFolder, changes: list[str]) -> dict[str, Any]:
    if changes:
        raise TrainingError(
            f"run {folder.path} is finished; its settings can no longer change: {'; '.join(changes)}. "
            "Train in another folder."
        )
    try:
        results = read_json(folder.results)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder.results} is damaged: {error}. Put back the one that the training wrote; 'encapkeras evaluate' "
            "measures the network again."
        ) from error
    StateFiles(folder.resume).remove(folder.lock)  # it may have been killed before it did so
    return results


def changed_settings(folder: RunFolder, spec: Spec) -> list[str]:
    """Return the settings that a resumed run changes, such as `train.clip_norm is null there and 1.0 here`."""
    before, now = spec_of_run(folder, same_places(folder, spec)).resolved, spec.resolved
    fixed = first_difference(_fixed_part(before), _fixed_part(now))
    if fixed:
        raise TrainingError(
            f"run {folder.path} was started with another spec: {fixed}. When a run is resumed, only these settings of "
            f"'train' may change (of 'optimizer' not the kind): {', '.join(_MAY_CHANGE)}. Give the spec that it has, "
            "or train in another folder."
        )
    return list(_differences(before.get("train", {}), now.get("train", {}), "train"))


def changed_places(folder: RunFolder, spec: Spec) -> list[str]:
    """Return which paths of the data differ from those that a run notes; whether the images do is known later."""
    before, now = written_spec(folder).get("data") or {}, spec.resolved.get("data") or {}
    paths = path_arguments(before.get("dataset"))
    return [first_difference(before.get(p), now.get(p), f"data.{p}") for p in paths if before.get(p) != now.get(p)]


def _fixed_part(resolved: Mapping[str, Any]) -> dict[str, Any]:
    train = resolved.get("train", {})
    fixed = {key: value for key, value in train.items() if key not in _MAY_CHANGE}
    kind = train.get("optimizer", {}).get("kind")
    return {**without_places(resolved), "train": {**fixed, "optimizer": {"kind": kind}}}


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict) and before.get("kind") == now.get("kind"):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}")
    elif before != now:
        yield first_difference(before, now, path)


def numeric_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return lines that say why a resumed run may not have, to the last bit, the numbers of an uninterrupted one.

    Examples:
        >>> numeric_differences({"threads": 2}, {"threads": 1})
        ['threads was 2, now 1: the last digits may differ from those of an uninterrupted training']
    """
    return [
        f"{name} was {before[name]}, now {now[name]}: the last digits may differ from those of an uninterrupted "
        "training"
        for name in _DECIDES_NUMBERS
        if name in before and name in now and before[name] != now[name]
    ]


def describe_environment(device: str, seed: int, processes: int = 1) -> dict[str, Any]:
    """Return versions, device, threads, memory, dtype, seed, processes and command line, for `environment.json`."""
    import keras
    import numpy
    import torch
    import torchvision

    from encapkeras.functional.kernels.choice import kernels_in_words

    return {
        "encapkeras": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "system": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "kernels": kernels_in_words("cuda" if device.startswith("cuda") else "cpu"),
        "keeps_freed_memory": freed_memory_is_kept(),
        "dtype": keras.config.dtype_policy().name,
        "seed": seed,
        "processes": processes,
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def on_device(environment: Mapping[str, Any]) -> str:
    """Return device and threads of an `environment.json` for reading, such as `cpu, 1 thread`."""
    threads = environment["threads"]
    return f"{environment['device']}, {threads} thread{'' if threads == 1 else 's'}"


def trained_on(folder: RunFolder) -> str:
    """Return where a run was trained, as its folder has it; empty if that is not known."""
    try:
        return on_device(folder.read_environment())
    except (RunFolderError, LookupError, TypeError):
        return ""
