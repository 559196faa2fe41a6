"""The resume state: everything that is needed to continue a training to the bit, as one file.

Files that only grow, such as metrics.csv, are not copied into it: their lengths are, and what came later is cut off.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.files import open_regular, replacing, writing
from encapkeras.torch_internals import load_saved

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
_PARTS = {"model", "random", "steps", "callbacks", "ended_early"}
_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.pt")
_EVENT_FILES = "events.out.tfevents.*"

_ADVICE = "Resume with the model, the optimizer and the metrics that the training started with, or start over."

State = dict[str, Any]


class Position(NamedTuple):
    """A moment of a training."""

    epoch: int  # the current one, from 0
    step: int  # how many of its steps were made

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"the start of epoch {self.epoch + 1}"


class StateFiles:
    """The newest resume states of a training, in a separate folder, which is made for the first one."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._locked: int | None = None

    def lock(self) -> None:
        """Keep other processes from resuming this training, until this one ends or calls `unlock`."""
        path = self.folder / ".lock"
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._locked = os.open(path, os.O_WRONLY | os.O_CREAT)
        if fcntl is None:
            return
        try:
            fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            raise TrainingError(f"another process is training with {self.folder}; wait until it has ended") from None
        except OSError:  # a file system without locks
            pass

    def unlock(self) -> None:
        """Let other processes resume the training."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def save(self, position: Position, state: State) -> None:
        """Save a state completely or not at all, before the oldest is removed."""
        content = io.BytesIO()  # torch itself raises all sorts of errors where a disk is full
        torch.save({"format": FORMAT, **state}, content)
        path = self.folder / f"epoch_{position.epoch + 1}_step_{position.step}.pt"
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob(".*.partial.pt"):
                unfinished.unlink()
        with replacing(path) as file:
            file.write_bytes(content.getvalue())
        with writing(path):
            for _, older in self._newest_first()[self.keep :]:
                older.unlink()

    def newest(self) -> tuple[Position, State] | None:
        """Read the newest state; None if there is none. A damaged file is a TrainingError."""
        found = self._newest_first()
        return (found[0][0], _read(found[0][1])) if found else None

    def position(self) -> Position | None:
        """Return where the newest state was saved; None if there is none."""
        found = self._newest_first()
        return found[0][0] if found else None

    def remove(self) -> None:
        """Remove all states, and their folder if nothing else is in it."""
        with writing(self.folder):
            for _, path in self._newest_first():
                path.unlink()
            (self.folder / ".lock").unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _newest_first(self) -> list[tuple[Position, Path]]:
        names = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("epoch_*.pt")]
        return sorted(((Position(int(m[1]) - 1, int(m[2])), path) for m, path in names if m), reverse=True)


def _read(path: Path) -> State:
    advice = "Remove it to resume from the state before, if there is one, or start over."
    try:
        with open_regular(path) as file:
            state: State = load_saved(file)
    except MemoryError:  # says nothing about the file
        raise
    except OSError as error:
        raise TrainingError(f"the resume state {path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch raises whatever its reading of damaged bytes ends in
        raise TrainingError(f"the resume state {path} cannot be read: {error}. {advice}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT or not _PARTS <= set(state):
        raise TrainingError(
            f"the resume state {path} is not in a format that this version of encapkeras reads ({FORMAT}; found "
            f"{found}). Resume with the version that wrote it, or start over."
        )
    return state


def model_state(model: keras.Model) -> State:
    """Copy weights, moving statistics, seeds, optimizer and running metrics of a compiled, built model to the CPU."""
    groups = {
        group: [(variable.path, variable.value.detach().cpu().clone()) for variable in variables]
        for group, variables in _groups(model)
    }
    return {**groups, "kind of optimizer": _optimizer_kind(model.optimizer)}


def set_model_state(model: keras.Model, state: State) -> None:
    """Set a compiled, built model and its optimizer to a state that `model_state` returned for an equal model."""
    check_model_state(model, state)
    for group, variables in _groups(model):
        _check_same(group, variables, state[group])
    for group, variables in _groups(model):
        for variable, (_, value) in zip(variables, state[group], strict=True):
            variable.assign(value)


def check_model_state(model: keras.Model, state: State) -> None:
    """Check that weights and optimizer of a state fit a compiled model; its metrics are known only in `fit`."""
    kind = _optimizer_kind(model.optimizer)
    if kind != state["kind of optimizer"]:
        raise TrainingError(
            f"the saved training has the optimizer {state['kind of optimizer']}; this one has {kind}. {_ADVICE}"
        )
    for group, variables in _groups(model):
        if group != "metrics":
            _check_same(group, variables, state[group])


def _optimizer_kind(optimizer: keras.optimizers.Optimizer) -> str:
    inner = getattr(optimizer, "inner_optimizer", None)
    name = type(optimizer).__name__
    return f"{name}({_optimizer_kind(inner)})" if inner is not None else name


def _groups(model: keras.Model) -> Iterator[tuple[str, list[keras.Variable]]]:
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    metrics = model.metrics_variables
    known = {id(variable) for variable in metrics}
    yield "weights", [variable for variable in model.variables if id(variable) not in known]
    yield "optimizer", list(optimizer.variables)
    yield "metrics", list(metrics)


def _check_same(group: str, variables: list[keras.Variable], saved: list[tuple[str, torch.Tensor]]) -> None:
    def shown(path: str, value: torch.Tensor) -> str:
        return f"'{path}' {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"

    if len(variables) != len(saved):
        raise TrainingError(
            f"the saved training has {len(saved)} variables of its {group}; this one has {len(variables)}. {_ADVICE}"
        )
    for variable, (path, value) in zip(variables, saved, strict=True):
        now = variable.value
        if now.shape != value.shape or now.dtype != value.dtype:
            raise TrainingError(
                f"the {group} of the saved training have {shown(path, value)} where this one has "
                f"{shown(variable.path, now)}. {_ADVICE}"
            )


def file_lengths(path: Path) -> dict[str, int]:
    """Return the bytes of a file, or of each event file in a folder, by name, after writing all of it to the disk."""
    lengths = {}
    with writing(path):
        for file in _growing_files(path):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
                lengths[file.relative_to(path).as_posix()] = opened.seek(0, os.SEEK_END)
    return lengths


def cut_back(path: Path, lengths: dict[str, int]) -> None:
    """Cut off what was written after `file_lengths`; remove newer event files. Event files may be missing."""
    with writing(path):
        for file in _growing_files(path):
            if file.relative_to(path).as_posix() not in lengths:
                file.unlink()
        for name, length in lengths.items():
            file = path / name
            if not file.exists() and name != ".":
                continue
            now = file.stat().st_size if file.exists() else 0
            if now < length:
                raise TrainingError(
                    f"{file} has {now:,} bytes; when the training was saved it had {length:,}. Put the complete file "
                    "back, or start over."
                )
            os.truncate(file, length)


def _growing_files(path: Path) -> list[Path]:
    """Return the file itself, or the event files in a folder but not in its subfolders, which may be of other runs."""
    found = path.glob(_EVENT_FILES) if path.is_dir() else [path]
    return [file for file in found if file.is_file()]
