"""Images in folders, one for each class, as torchvision's `ImageFolder` has them; hidden files do not count."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encapkeras.data.files import files_below, is_hidden
from encapkeras.data.image_files import ENDINGS
from encapkeras.data.registry import Array
from encapkeras.errors import DataError
from encapkeras.files import reading
from encapkeras.text import counted, listed

MOST_NAMED = 5


@dataclass(frozen=True)
class LabeledFiles:
    """Image files, class by class, each in the order of names, and their labels `(N,)`, int64."""

    paths: tuple[str, ...]
    labels: Array

    def chosen(self, which: Array) -> LabeledFiles:
        """Return the files for which `(N,)`, bool, is true."""
        return LabeledFiles(tuple(self.paths[index] for index in np.flatnonzero(which)), self.labels[which])

    def empty(self, classes: Sequence[str]) -> list[str]:
        """Return the classes that have no image."""
        present = set(self.labels.tolist())
        return [name for label, name in enumerate(classes) if label not in present]


def classes_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted."""
    with reading(folder, "a folder", DataError):
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def find_labeled_files(folder: Path, classes: Sequence[str], problems: list[str]) -> LabeledFiles:
    """Return all images below the folders of these classes; add a problem for files that are not images by name."""
    paths: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(classes):
        for path in files_below(folder / name) if os.path.isdir(folder / name) else ():
            (paths if path.lower().endswith(ENDINGS) else others).append(path)
        labels += [label] * (len(paths) - len(labels))
    if others:
        problems.append(
            f"{counted(len(others), 'file')} whose names do not end as those of images do: {named(others)}. "
            f"Remove them; endings of images: {', '.join(ENDINGS)}"
        )
    return LabeledFiles(tuple(paths), np.array(labels, dtype=np.int64))


def stray_files(folder: Path) -> list[str]:
    """Return the files that are in the folder itself instead of a class."""
    with reading(folder, "a folder", DataError):
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not is_hidden(entry.name))


def named(names: Sequence[str]) -> str:
    """Return the first of some names, which may be paths, and how many more there are."""
    return listed(names, MOST_NAMED, longest=None)
