"""Step 6, for `data` and `train`: a section becomes its settings, and the data set tells about itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encapkeras.data import DatasetInfo, DataSettings, describe
from encapkeras.data.registry import SOURCE_ARGUMENTS, SOURCE_PATHS
from encapkeras.errors import ArgumentError, DataError
from encapkeras.spec.report import Report
from encapkeras.spec.tree import Tree
from encapkeras.validation import Checker

_DATA = Checker(DataSettings)
_SOURCE_KEYS = ("dataset", *SOURCE_ARGUMENTS, "image_size")


def read_settings(checker: Checker, tree: Tree, report: Report) -> Any:
    """A section as its settings; None after a mistake other than an unknown key that the rest does not miss.

    Args:
        checker: What the section may hold.
        tree: The section.
        report: Where mistakes go.
    """
    if not isinstance(tree.value, dict):
        return None
    problems = report.add_values(checker, tree)
    if any(problem.kind != "unknown" for problem in problems) or any(tree.failures()):
        return None
    values = tree.plain()
    for problem in problems:
        _remove(values, problem.path)
    # What the rest now lacks is what the unknown key was meant to be: no mistake of its own.
    return None if checker.problems(values) else checker.convert(values)


def read_data(section: Tree, report: Report) -> tuple[DataSettings | None, DatasetInfo | None]:
    """The settings of `data`, and what the data set tells about itself; None for what a mistake leaves unknown.

    Args:
        section: The section.
        report: Where mistakes go.
    """
    absolute = _with_absolute_paths(section)
    settings: DataSettings | None = read_settings(_DATA, absolute, report)
    source = settings or _source_of(absolute)
    try:
        return settings, describe(source) if source else None
    except (ArgumentError, DataError) as error:
        report.add(_cause(absolute, str(error)), _in_one_line(str(error)))
        return settings, None


def _cause(section: Tree, text: str) -> Tree:
    """The value that a message about the data is about: a setting or a file that it names; else the section."""
    entries = section.entries()
    named = [name for name in re.findall(r"\bdata\.(\w+)", text) if name in entries]
    values = {key: entries[key].value for key in SOURCE_PATHS if key in entries}
    files = [key for key, value in values.items() if isinstance(value, str) and value and value in text]
    return entries[[*named, *files][0]] if named or files else section


def _in_one_line(text: str) -> str:
    """Several parts of a data set may be damaged, each told on a line; a mistake in a spec is one line."""
    return "; ".join(line.strip() for line in text.splitlines()).replace(":; ", ": ").replace(".; ", ". ")


def _source_of(data: Tree) -> DataSettings | None:
    """The settings that say which images these are, where others are wrong: the network can be checked all the same."""
    values = data.with_value({key: e for key, e in data.entries().items() if key in _SOURCE_KEYS})
    plain = values.plain()
    return None if any(values.failures()) or _DATA.problems(plain) else _DATA.convert(plain)


def _remove(values: Any, path: Sequence[str | int]) -> None:
    for step in path[:-1]:
        values = values[step]
    del values[path[-1]]


def _with_absolute_paths(data: Tree) -> Tree:
    """The `data` section with its paths from the file that wrote them, so that it means the same in every folder.

    Values of `--set` and of plain data start at the current folder, as the names of their sources have no folder.
    """
    entries = data.entries()
    paths = {key: entries[key] for key in SOURCE_PATHS if key in entries and isinstance(entries[key].value, str)}
    absolute = {key: _absolute(path) for key, path in paths.items()}
    return data.with_value({**entries, **absolute}) if absolute else data


def _absolute(path: Tree) -> Tree:
    return path.with_value(os.path.abspath(Path(path.file).parent / os.path.expanduser(path.value)))
