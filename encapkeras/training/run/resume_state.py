"""All that decides how a training goes on, as one file."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.files import replacing, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
_PARTS = {"model", "random", "steps", "callbacks", "ended_early"}
_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.pt")

_ADVICE = "Go on with the model, the optimizer and the metrics that the training began with, or train anew."

State = dict[str, Any]


class Position(NamedTuple):
    """A moment of a training.

    Args:
        epoch: The epoch that is under way or begins, from 0.
        step: How many of its steps were made.
    """

    epoch: int
    step: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"the start of epoch {self.epoch + 1}"


class StateFiles:
    """The newest states of a training, in a folder of their own.

    Args:
        folder: The folder; made when the first state is saved.
        keep: How many are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._locked: int | None = None

    def lock(self) -> None:
        """Sees to it that no other process goes on with this training, until this one ends or `unlock` is called.

        Raises:
            TrainingError: Another process does.
            RunFolderError: The folder cannot be written.
        """
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
        """Lets other processes go on."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def save(self, position: Position, state: State) -> None:
        """Saves a state, whole or not at all, before it removes the oldest.

        Raises:
            RunFolderError: It cannot be written; those before are unchanged.
        """
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
        """The newest state; None if there is none.

        Raises:
            TrainingError: The newest file is damaged.
        """
        found = self._newest_first()
        return (found[0][0], _read(found[0][1])) if found else None

    def position(self) -> Position | None:
        """Where the newest state is; None if there is none."""
        found = self._newest_first()
        return found[0][0] if found else None

    def remove(self) -> None:
        """Removes all states, and their folder if nothing else is in it."""
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
    advice = "Remove it to go on from the state before, if there is one, or train anew."
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch does not look at checksums
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:  # says nothing about the file
        raise
    except OSError as error:
        raise TrainingError(f"the training state {path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch raises whatever its reading of damaged bytes ends in
        raise TrainingError(f"the training state {path} cannot be read: {error}. {advice}") from error
    if damaged:
        raise TrainingError(f"the training state {path} is damaged: '{damaged}' has another checksum. {advice}")
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT or not _PARTS <= set(state):
        raise TrainingError(
            f"the training state {path} is none that this version of encapkeras reads (format {FORMAT}; found "
            f"{found}). Go on with the version that wrote it, or train anew."
        )
    return state


def model_state(model: keras.Model) -> State:
    """Weights, moving statistics, seeds of layers, optimizer and running means of metrics, copied to the CPU.

    Args:
        model: A model that is compiled and built.
    """
    groups = {
        group: [(variable.path, variable.value.detach().cpu().clone()) for variable in variables]
        for group, variables in _groups(model)
    }
    return {**groups, "kind of optimizer": _kind_of(model.optimizer)}


def set_model_state(model: keras.Model, state: State) -> None:
    """Puts a model and its optimizer into an earlier state.

    Args:
        model: A model that is compiled and built.
        state: What `model_state` gave for an equal model.

    Raises:
        TrainingError: The model is another one.
    """
    check_model_state(model, state)
    for group, variables in _groups(model):
        _check_same(group, variables, state[group])
    for group, variables in _groups(model):
        for variable, (_, value) in zip(variables, state[group], strict=True):
            variable.assign(value)


def check_model_state(model: keras.Model, state: State) -> None:
    """Checks that weights and optimizer of a state are of this model's kind; the metrics are known only in `fit`.

    Args:
        model: A model that is compiled.
        state: What `model_state` gave.

    Raises:
        TrainingError: The model is another one.
    """
    kind = _kind_of(model.optimizer)
    if kind != state["kind of optimizer"]:
        raise TrainingError(
            f"the saved training has the optimizer {state['kind of optimizer']}; this one has {kind}. {_ADVICE}"
        )
    for group, variables in _groups(model):
        if group != "metrics":
            _check_same(group, variables, state[group])


def _kind_of(optimizer: keras.optimizers.Optimizer) -> str:
    inner = getattr(optimizer, "inner_optimizer", None)
    name = type(optimizer).__name__
    return f"{name}({_kind_of(inner)})" if inner is not None else name


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
                f"of the {group} of the saved training, {shown(path, value)} stands where this one has "
                f"{shown(variable.path, now)}. {_ADVICE}"
            )
