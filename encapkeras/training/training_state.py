"""All that decides how a training goes on, as one file."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.training.run_folder import replacing, writing

FORMAT = 1
_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.pt")

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
            file.write_bytes(content.getbuffer())
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
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _newest_first(self) -> list[tuple[Position, Path]]:
        names = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("epoch_*.pt")]
        return sorted(((Position(int(m[1]) - 1, int(m[2])), path) for m, path in names if m), reverse=True)


def _read(path: Path) -> State:
    advice = f"Remove it to go on from {path.parent}'s state before, or train anew."
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch does not look at checksums
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reading of damaged bytes ends in
        raise TrainingError(f"the training state {path} cannot be read: {error}. {advice}") from error
    if damaged:
        raise TrainingError(f"the training state {path} is damaged: '{damaged}' has another checksum. {advice}")
    if state.get("format") != FORMAT:
        raise TrainingError(
            f"the training state {path} has format {state.get('format')}; this encapkeras reads {FORMAT}. Go on with "
            "the version that wrote it, or train anew."
        )
    return state


def model_state(model: keras.Model) -> State:
    """Weights, moving statistics, seeds of layers, optimizer and running means of metrics, copied to the CPU.

    Args:
        model: A model that is compiled and built.
    """
    return {
        group: [(variable.path, variable.value.detach().cpu().clone()) for variable in variables]
        for group, variables in _groups(model)
    }


def set_model_state(model: keras.Model, state: State) -> None:
    """Puts a model and its optimizer into an earlier state.

    Args:
        model: A model that is compiled and built.
        state: What `model_state` gave for an equal model.

    Raises:
        TrainingError: The model is another one.
    """
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
    for group, variables in _groups(model):
        if group != "metrics":
            _check_same(group, variables, state[group])


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

    advice = "Go on with the model, the optimizer and the metrics that the training began with, or train anew."
    if len(variables) != len(saved):
        raise TrainingError(
            f"the saved training has {len(saved)} variables of its {group}; this one has {len(variables)}. {advice}"
        )
    for variable, (path, value) in zip(variables, saved, strict=True):
        now = variable.value
        if now.shape != value.shape or now.dtype != value.dtype:
            raise TrainingError(
                f"of the {group} of the saved training, {shown(path, value)} stands where this one has "
                f"{shown(variable.path, now)}. {advice}"
            )
