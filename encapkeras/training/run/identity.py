"""What ties a run together: its spec, the images that it was started with, its checkpoints and its resume states.

Paths are of a machine and not of a run: the data set may move, and its fingerprint says whether it is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from encapkeras.data import DATASETS, DataSettings
from encapkeras.data.fingerprint import Fingerprint, data_differences
from encapkeras.data.registry import path_arguments
from encapkeras.errors import (
    ArgumentError,
    DataError,
    EncapkerasError,
    Problem,
    RunFolderError,
    SpecError,
    TrainingError,
)
from encapkeras.files import LONGEST_CONFIGURATION, read_member, reading
from encapkeras.spec.load import load_spec
from encapkeras.spec.parse import load_file
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec
from encapkeras.training.run.resume_state import Position, State
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.validation import shown

MARK = "encapkeras.json"  # a file in a checkpoint
_LONGEST_MARK = 1024  # bytes
_NOT_OF_NETWORK = ("data", "train", "name", "source")  # sections of a spec


def spec_of_run(folder: RunFolder, overrides: Sequence[str] = (), changes: Sequence[str] = ()) -> Spec:
    """Load the resolved spec of a run; an error says whether the spec is damaged, or what it names is missing.

    Overrides come from `--set`, and changes, which are made after them, from `--change`.
    """
    folder.check_run()
    folder.check_plugins()
    try:
        return load_spec(folder.spec, [*overrides, *changes])
    except SpecError as error:
        if changes:
            if overrides or all(problem.file != "--set" for problem in error.problems):
                spec_of_run(folder, overrides)  # raises what is wrong without the changes
            raise _of_changes(error) from error
        if any(problem.file == "--set" for problem in error.problems):
            raise
        if _names_missing_data(folder, error):
            texts = "\n".join(problem.message for problem in error.problems)
            raise DataError(
                f"the images of run {folder.path} cannot be used: {texts}\n{_how_to_place(folder, overrides)}".rstrip()
            ) from error
        raise _damaged(folder, error) from error


def _of_changes(error: SpecError) -> SpecError:
    """Return the errors of a spec that changes of its data have made, as errors of `--change`."""
    texts = [(problem.path, problem.message.replace("--set ", "--change ")) for problem in error.problems]
    return SpecError([Problem("--change", 0, 0, path, text) for path, text in texts])


def _damaged(folder: RunFolder, error: SpecError) -> RunFolderError:
    return RunFolderError(
        f"run {folder.path} cannot be used, as its {folder.spec.name} is damaged. Put back the one that the training "
        f"wrote.\n{error}"
    )


def _names_missing_data(folder: RunFolder, error: SpecError) -> bool:
    """Return whether all that is wrong with a spec is what its valid section `data` names."""
    if not all(f"{problem.path}.".startswith("data.") for problem in error.problems):
        return False
    try:
        DataSettings.model_validate(written_spec(folder).get("data"))
    except (ValidationError, EncapkerasError):
        return False
    return True


def written_spec(folder: RunFolder) -> dict[str, Any]:
    """Return the spec of a run as plain data, without looking at what it names."""
    report = Report()
    try:
        spec: dict[str, Any] = load_file(folder.spec, str(folder.spec), report).plain()
        report.raise_if_any()
    except SpecError as error:
        raise _damaged(folder, error) from error
    return spec


def _written_data(folder: RunFolder) -> dict[str, Any]:
    data = written_spec(folder).get("data")
    return data if isinstance(data, dict) and isinstance(data.get("dataset"), str) else {"dataset": None}


def _places(folder: RunFolder) -> tuple[str | None, dict[str, str | None]]:
    """Return which path --data-root sets, if there is one, and all paths of a run's data set; some may be unset."""
    data = _written_data(folder)
    dataset = data["dataset"]
    own = DATASETS[dataset].arguments if dataset in DATASETS else {}
    paths = [name for name in path_arguments(dataset) if name in own]
    key = "root" if "root" in paths else paths[0] if len(paths) == 1 else None
    return key, {name: data[name] if isinstance(data.get(name), str) else None for name in paths}


def _below(place: str | None, root: str | None) -> str | None:
    """Return the path from a folder, or from a file, to what is below it; None if it is elsewhere."""
    below = os.pardir if place is None or root is None else os.path.relpath(place, root)
    return None if below.startswith(os.pardir) else below


def _gone(folder: RunFolder, overrides: Sequence[str]) -> list[str]:
    """Return which paths of a run's data set, of those that overrides do not set, lead nowhere."""
    given = {text.partition("=")[0].removeprefix("data.") for text in overrides}
    return [
        name for name, place in _places(folder)[1].items() if name not in given and place and not os.path.exists(place)
    ]


def _how_to_place(folder: RunFolder, overrides: Sequence[str]) -> str:
    """Return which options give the places of what is not where a run's spec, with overrides, has it."""
    key, places = _places(folder)
    gone = _gone(folder, overrides)
    advice = []
    if key in gone or not (gone or any(text.startswith(f"data.{key}=") for text in overrides)):
        advice.append("If they are elsewhere now, give their place with --data-root.")
    for name in gone:
        if name != key and not (key in gone and _below(places[name], places.get(key or "")) is not None):
            advice.append(f"If data.{name} is elsewhere now, give its place with --set data.{name}=PATH.")
    return " ".join(advice)


def missing_places(folder: RunFolder, spec: Spec) -> str:
    """Return which options give the places of what is not where `spec`, of a run, has it; empty if all is there."""
    if spec.data and spec.data.dataset != _written_data(folder)["dataset"]:
        has_root = "root" in DATASETS[spec.data.dataset].arguments and spec.data.root is None
        return "If they are elsewhere, give their place with --change data.root=FOLDER." if has_root else ""
    written = [_as_override(name, place) for name, place in _places(folder)[1].items()]
    moved = [text for text in same_places(folder, spec) if text not in written]
    return _how_to_place(folder, moved) if _gone(folder, moved) else ""


def check_places(folder: RunFolder, overrides: Sequence[str]) -> None:
    """Check that overrides set nothing but paths of a run's data set."""
    allowed = [f"data.{name}" for name in _places(folder)[1]]
    for text in overrides:
        if text.partition("=")[0] not in allowed:
            raise ArgumentError(
                f"--set {shown(text)}: of a trained run, only the paths of its data set can be set: "
                f"{', '.join(allowed) or 'it has none'}"
            )


def check_changes(changes: Sequence[str]) -> None:
    """Check that changes are of a run's data, and leave it which images are held out from the training."""
    wrong = []
    for text in changes:
        path, equals, _ = text.partition("=")
        section, _, name = path.strip().partition(".")
        if not equals or section != "data" or not name or name.endswith(".") or name in ("validation", "subset"):
            wrong.append(f"--change {shown(text)}")
    if wrong:
        raise ArgumentError(
            f"{', '.join(wrong)}: give data.KEY=VALUE, such as data.affine={{}}; KEY may be any setting of the "
            "data but validation and subset, which decide on the images that a network was not trained on"
        )


def moved_data(folder: RunFolder, place: str) -> list[str]:
    """Return overrides for a data set that is at `place` now: its root, or its only file, and what is below that."""
    key, before = _places(folder)
    if key is None:
        dataset = _written_data(folder)["dataset"]
        raise ArgumentError(f"--data-root: data set {shown(dataset)} has no folder or file of its own")
    new = os.path.abspath(os.path.expanduser(place))
    old = before.pop(key)
    if key != "root" and old and os.path.isdir(new):
        new = os.path.join(new, os.path.basename(old))
    moved = {key: new}
    for name, path in before.items():
        below = _below(path, old)
        if below is not None:
            moved[name] = os.path.join(new, below)
    return [_as_override(name, path) for name, path in moved.items()]


def _as_override(name: str, path: Any) -> str:
    return f"data.{name}={json.dumps(path)}"  # JSON is YAML


def same_places(folder: RunFolder, spec: Spec) -> list[str]:
    """Return overrides that make a run's spec look for its data where `spec` does."""
    if spec.data is None or _written_data(folder)["dataset"] != spec.data.dataset:
        return []
    given = spec.data.arguments
    return [_as_override(name, given[name]) for name in path_arguments(spec.data.dataset) if name in given]


def without_places(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved spec without the paths of its data."""
    data = resolved.get("data") or {}
    paths = path_arguments(data.get("dataset"))
    return {**resolved, "data": {key: value for key, value in data.items() if key not in paths}}


def first_difference(there: Any, here: Any, path: str = "") -> str:
    """Return where two resolved specs first differ, and how; empty if they do not."""
    if there == here:
        return ""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            if there.get(key) != here.get(key):
                return first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    # Of paths, which may be long, the ends differ.
    written = [
        "null" if value is None else repr(value) if type(value) is str and len(value) < 300 else shown(value)
        for value in (there, here)
    ]
    return f"{path} is {written[0]} there and {written[1]} here"


def noted_images(environment: Mapping[str, Any]) -> Fingerprint | None:
    """Return the images that an `environment.json` notes; None for a run of an earlier version."""
    starts = [environment, *environment.get("resumed", [])]
    return next((start["data"] for start in starts if start.get("data")), None)


def changed_images(folder: RunFolder, now: Fingerprint) -> str:
    """Return how the images differ from those that the run was started with; empty if not, or if that is unknown."""
    environment = folder.read_environment()
    with reading(folder.environment, "the note of a training", RunFolderError):
        there = noted_images(environment)
        return data_differences(there, now) if there else ""


def check_images(folder: RunFolder, now: Fingerprint) -> None:
    """Check that a run goes on with the images that it was started with."""
    changed = changed_images(folder, now)
    if changed:
        raise TrainingError(
            f"run {folder.path} was started with other images: {changed}. Put back the images that it had, or train in "
            "another folder."
        )


def mark_checkpoint(file: Path, run: str, epoch: int) -> None:
    """Note in a saved model of which run and epoch it is."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(MARK, json.dumps({"run": run, "epoch": epoch}))


def mark_of(file: Path) -> dict[str, Any]:
    """Return of which run and epoch a saved model is; empty if it is not marked."""
    with zipfile.ZipFile(file) as archive:
        return _mark_of(archive)


def _mark_of(archive: zipfile.ZipFile) -> dict[str, Any]:
    return dict(json.loads(read_member(archive, MARK, _LONGEST_MARK))) if MARK in archive.namelist() else {}


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_checkpoint(folder: RunFolder, file: Path) -> None:
    """Check that a checkpoint in a run folder is of that run, or, where it is not marked, of its network."""
    run = folder.read_environment().get("run")
    if not zipfile.is_zipfile(file):
        return  # `load_model` explains that
    with reading(file, "a checkpoint", RunFolderError), zipfile.ZipFile(file) as archive:
        mark = _mark_of(archive)
        config = json.loads(read_member(archive, "config.json", LONGEST_CONFIGURATION))["config"]
        if run is not None and mark.get("run") == run:
            return
        difference = "it is of another run" if mark and run else _other_network(config.get("spec"), folder)
    if difference:
        raise RunFolderError(
            f"{file} is not a checkpoint of run {folder.path}: {difference}. Put back the one that the training wrote."
        )


def _other_network(spec: Any, folder: RunFolder) -> str:
    if not isinstance(spec, dict):
        return "it was not built from a spec"
    specs = [spec, written_spec(folder)]
    there, here = ({key: part for key, part in s.items() if key not in _NOT_OF_NETWORK} for s in specs)
    if there == here:
        return ""
    # One may be written by an earlier version.
    return first_difference(load_spec(there).resolved, load_spec(here).resolved)


def check_state(folder: RunFolder, position: Position, state: State) -> None:
    """Check that a resume state is of the run in this folder, and that the best weights that it knows of are there."""
    with reading(folder.resume, "a resume state", TrainingError):
        all_kept = {callback["class"]: callback["kept"] for callback in state["callbacks"]}
        kept = dict(all_kept.get("Checkpoints", {}))
    run = folder.read_environment().get("run")
    if run is not None and kept.get("run") not in (None, run):
        raise TrainingError(f"the resume state in {folder.resume} is of another run. Put back that of {folder.path}.")
    best = kept.get("best_epoch")
    if best is None or file_digest(folder.best) == kept.get("best_digest"):
        return
    problem = _not_of_later_epoch(folder, run, position) if folder.best.is_file() else "is missing"
    if problem:
        raise TrainingError(
            f"{folder.best} {problem}: run {folder.path} cannot be resumed without the weights of its best epoch so "
            f"far, {best}. Put back that file, or train in another folder."
        )


def _not_of_later_epoch(folder: RunFolder, run: str | None, position: Position) -> str:
    """Return what is wrong with best weights that a state does not know: only epochs that come again may write some."""
    try:
        with reading(folder.best, "a checkpoint", RunFolderError), zipfile.ZipFile(folder.best) as archive:
            if archive.testzip():
                return "is damaged"
            mark = _mark_of(archive)
            later = mark.get("run") == run and int(mark.get("epoch", 0)) > position.epoch
    except RunFolderError:
        return "is damaged"
    return "" if later or run is None else "is not the file that the training wrote"
