"""The resume state: everything that is needed to continue a training to the bit, as one file.

Files that only grow, such as metrics.csv, are not copied into it: their lengths are, and what came later is cut off.
A state may come from anyone: it names no files but event files in the folders that the callbacks have.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.files import FileLock, open_own, open_regular, reading, replacing, writing
from encapkeras.torch_internals import load_saved

FORMAT = 2  # 1 has no checksum
_NAME = re.compile(r"epoch_([1-9]\d*)_step_(\d+)\.pt")
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.[^/\\\0]+")

_ADVICE = (
    "Resume with the model, the optimizer and the metrics that the training started with, or train in another folder."
)

State = dict[str, Any]


class Position(NamedTuple):
    """A moment of a training."""

    epoch: int  # the current one, from 0
    step: int  # how many of its steps were made

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"the start of epoch {self.epoch + 1}"


def _is_tensors(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        type(entry) is tuple
        and [type(part) for part in entry] == [str, torch.Tensor]
        and entry[1].layout == torch.strided
        for entry in entries
    )


def _is_model(part: Any) -> bool:
    tensors = isinstance(part, dict) and all(
        _is_tensors(part.get(group)) for group in ("weights", "optimizer", "metrics")
    )
    return tensors and isinstance(part.get("kind of optimizer"), str)


def _is_callback(part: Any) -> bool:
    kinds = {"class": str, "kept": dict, "lengths": list}
    return isinstance(part, dict) and all(isinstance(part.get(name), kind) for name, kind in kinds.items())


# The parts of a state, and whether one is what it should be.
_PARTS: dict[str, Callable[[Any], bool]] = {
    "model": _is_model,
    "random": lambda part: isinstance(part, dict) and {"epoch", "step"} <= set(part),
    "steps": lambda part: part is None or type(part) is int,
    "callbacks": lambda part: isinstance(part, list) and all(map(_is_callback, part)),
    "ended_early": lambda part: type(part) is bool,
}


class StateFiles:
    """The newest resume states of a training, in a separate folder, which is made for the first one."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._lock = FileLock(folder / ".lock")

    def lock(self) -> None:
        """Keep other processes from resuming this training, until this one ends or calls `unlock`."""
        with writing(self._lock.path):
            is_ours = self._lock.acquire()
        if not is_ours:
            raise TrainingError(f"another process is training with {self.folder}; wait until it has ended")

    def unlock(self) -> None:
        """Let other processes resume the training."""
        self._lock.close()

    def save(self, position: Position, state: State) -> None:
        """Save a state completely or not at all, before the oldest is removed."""
        content = io.BytesIO()  # torch itself raises all sorts of errors where a disk is full
        state = {"format": FORMAT, "position": tuple(position), **state}
        torch.save({**state, "checksum": checksum(state)}, content)
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
        return (found[0][0], _read(found[0][1], found[0][0])) if found else None

    def position(self) -> Position | None:
        """Return where the newest state was saved; None if there is none."""
        found = self._newest_first()
        return found[0][0] if found else None

    def remove(self, lock: FileLock) -> None:
        """Remove all states and their lock, which is held here, and their folder if nothing else is in it."""
        with writing(self.folder):
            for _, path in self._newest_first():
                path.unlink()
            lock.remove()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _newest_first(self) -> list[tuple[Position, Path]]:
        names = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("epoch_*.pt")]
        return sorted(((Position(int(m[1]) - 1, int(m[2])), path) for m, path in names if m), reverse=True)


def _read(path: Path, position: Position) -> State:
    advice = "Move it away to resume from the state before, if there is one, or train in another folder."
    with reading(path, "a resume state", TrainingError, advice), open_regular(path) as file:
        state: State = load_saved(file)
        found = state.get("format") if isinstance(state, dict) else None
        if found not in (1, FORMAT) or not set(_PARTS) <= set(state):
            raise TrainingError(
                f"the resume state {path} is not in a format that this version of encapkeras reads (1 to {FORMAT}; "
                f"found {found}). Resume with the version that wrote it, or train in another folder."
            )
        problem = _problem(state, position, file.seek(0, os.SEEK_END))
        if problem:
            raise TrainingError(f"the resume state {path} is damaged: {problem}. {advice}")
    return state


def _problem(state: State, position: Position, size: int) -> str:
    """Return what shows that a state was changed, empty if nothing does; `size` is that of its file."""
    remaining = 4 * size  # the file has what is in several places once
    for leaf in _leaves(state):  # such places can stand for more than fits into memory
        remaining -= leaf.nbytes if isinstance(leaf, torch.Tensor) else 1
        if remaining < 0:
            return "it holds more than its file could"
    written = state.pop("checksum", None)
    if state["format"] != 1 and written != checksum(state):
        return "its content has another checksum"
    if tuple(state.pop("position", position)) != position:
        return "it was renamed"
    wrong = [name for name, is_right in _PARTS.items() if not is_right(state[name])]
    if not wrong and position.step > (state["steps"] or position.step):
        wrong = ["steps"]
    return f"'{wrong[0]}' has changed" if wrong else ""


def checksum(content: Any) -> str:
    """Return one of names, types, shapes and bytes of all tensors, and of all other values, in nested containers."""
    digest = hashlib.blake2b(digest_size=32)
    for leaf in _leaves(content):
        if isinstance(leaf, torch.Tensor):
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(leaf.encode() + b"\0")
    return digest.hexdigest()


def _leaves(content: Any) -> Iterator[str | torch.Tensor]:
    """Yield what containers hold, with marks that tell any two contents apart."""
    match content:
        case torch.Tensor():
            yield f"{content.dtype} {tuple(content.shape)}"
            yield content
        case dict() | list() | tuple():
            yield f"{type(content).__name__} {len(content)}"
            for entry in content.items() if isinstance(content, dict) else content:
                yield from _leaves(entry)
        case _:
            yield repr(content)


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
        for name, file in _growing_files(path).items():
            with open_regular(file, "r+b") as opened:
                os.fsync(opened.fileno())
                lengths[name] = opened.seek(0, os.SEEK_END)
    return lengths


def cut_back(saved: Sequence[tuple[Path, Any]]) -> None:
    """Cut off what was written after `file_lengths` of each path; remove newer event files, of which some may miss.

    All files are looked at before one is changed. Only files that `file_lengths` could have named are changed.
    """
    newer: list[Path] = []
    longer: list[tuple[Path, int]] = []
    for path, lengths in saved:
        _check_lengths(path, lengths)
        with writing(path):
            now = _growing_files(path)
            newer += [file for name, file in now.items() if name not in lengths]
            for name, length in lengths.items():
                size = now[name].lstat().st_size if name in now else 0
                if size < length and (name in now or name == "."):
                    raise TrainingError(
                        f"{path / name} has {size:,} bytes; when the training was saved it had {length:,}. Put the "
                        "complete file back, or train in another folder."
                    )
                if size > length:
                    longer.append((now[name], length))
    for file in newer:
        with writing(file):
            file.unlink()
    for file, length in longer:
        with writing(file), open_own(file, "r+b") as opened:
            opened.truncate(length)


def _check_lengths(path: Path, lengths: Any) -> None:
    names = lengths if isinstance(lengths, dict) else {0: 0}
    for name, length in names.items():
        is_name = isinstance(name, str) and (name == "." or _EVENT_FILE.fullmatch(name))
        if not is_name or type(length) is not int or length < 0:
            raise TrainingError(
                f"the resume state is damaged: it names {name!r} with {length!r} bytes among the files of {path}, "
                "which are not touched. Train in another folder, or resume from a state that you trust."
            )


def _growing_files(path: Path) -> dict[str, Path]:
    """Return the file itself as `.`, or the event files in a folder but not in its subfolders, which may be others'."""
    if not path.is_dir():
        return {".": path} if os.path.lexists(path) else {}
    return {
        file.name: file
        for file in path.iterdir()
        if _EVENT_FILE.fullmatch(file.name) and file.is_file() and not file.is_symlink()
    }
