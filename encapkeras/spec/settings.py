"""Step 6, for `data` and `train`: a section becomes its settings, and the data set describes its images."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encapkeras.data import DatasetInfo, DataSettings, describe
from encapkeras.data.registry import COMMON_SETTINGS, path_arguments
from encapkeras.errors import ArgumentError, DataError, printable, suggest
from encapkeras.spec.report import Report
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.spec.tree import Tree
from encapkeras.validation import Checker

DATA = Checker(DataSettings)
_NOT_OF_IMAGES = set(COMMON_SETTINGS) - {
    "dataset",
    "image_size",
    "affine",
    "overlap",
}  # what decides nothing about the images themselves


def read_settings(checker: Checker, tree: Tree, report: Report) -> Any:
    """Return a section as its settings; None after an error other than an unknown key that the rest can do without."""
    if not isinstance(tree.value, dict):
        return None
    problems = report.add_values(checker, tree)
    if any(problem.kind != "unknown" for problem in problems) or any(tree.failures()):
        return None
    return _converted(checker, tree)


def check_class_weights(train: TrainSettings | None, info: DatasetInfo | None, written: Tree, report: Report) -> None:
    """Check that the classes which have weights are those of the data set."""
    if train is None or info is None or not isinstance(train.class_weights, dict):
        return
    for name in train.class_weights:
        if name not in info.class_names:
            text = f"'{printable(name)}' is not a class of the data set. {suggest(name, info.class_names)}"
            report.add(written.deepest("class_weights", name), text)


def read_data(section: Tree, report: Report) -> tuple[DataSettings | None, DatasetInfo | None]:
    """Return the settings of `data` and the description of the data set; None for what an error leaves unknown."""
    absolute = _with_absolute_paths(section)
    settings: DataSettings | None = read_settings(DATA, section, report) and _converted(DATA, absolute)
    images = settings or _settings_of_images(absolute)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            info = describe(images) if images else None
        for warning in caught:
            report.warn(_cause(absolute, str(warning.message)), str(warning.message))
        return settings, info
    except (ArgumentError, DataError) as error:
        report.add(_cause(absolute, str(error)), _in_one_line(str(error)))
        return settings, None


def _settings_of_images(data: Tree) -> DataSettings | None:
    """Return the settings that decide about the images, where others are wrong: the network can still be checked."""
    kept = data.with_value({key: entry for key, entry in data.entries().items() if key not in _NOT_OF_IMAGES})
    return None if any(kept.failures()) else _converted(DATA, kept)


def _converted(checker: Checker, tree: Tree) -> Any:
    """Return the section without its unknown keys; None if it then lacks what an unknown key was meant to be."""
    values = tree.plain()
    for problem in checker.problems(values):
        if problem.kind == "unknown":
            _remove(values, problem.path)
    return None if checker.problems(values) else checker.convert(values)


def _remove(values: Any, path: Sequence[str | int]) -> None:
    for step in path[:-1]:
        values = values[step]
    del values[path[-1]]


def _cause(section: Tree, text: str) -> Tree:
    """Return the value that a message about the data names, a setting or a file; else the section."""
    entries = section.entries()
    named = [name for name in re.findall(r"\bdata\.(\w+)", text) if name in entries]
    paths = _paths(section)
    files = [key for key, path in paths.items() if isinstance(path.value, str) and path.value and path.value in text]
    files.sort(key=lambda key: len(paths[key].value), reverse=True)  # a file also names the folder that it is in
    return entries[[*named, *files][0]] if named or files else section


def _in_one_line(text: str) -> str:
    """Join the lines of a message about several parts of a data set: an error in a spec is one line."""
    return "; ".join(line.strip() for line in text.splitlines()).replace(":; ", ": ").replace(".; ", ". ")


def _with_absolute_paths(data: Tree) -> Tree:
    """Make the paths of `data` absolute, from the file that wrote them, or the current folder."""
    absolute = {key: absolute_path(path) for key, path in _paths(data).items()}
    return data.with_value({**data.entries(), **absolute}) if absolute else data


def _paths(data: Tree) -> dict[str, Tree]:
    entries = data.entries()
    dataset = entries["dataset"].value if "dataset" in entries else None
    return {key: entries[key] for key in path_arguments(dataset) if key in entries}


def absolute_path(path: Tree) -> Tree:
    """Make a path, or each of a list, absolute, from the file that wrote it, or the current folder."""
    if isinstance(path.value, list):
        return path.with_value([absolute_path(element) for element in path.value])
    if not isinstance(path.value, str):
        return path
    return path.with_value(os.path.abspath(Path(path.file).parent / os.path.expanduser(path.value)))
