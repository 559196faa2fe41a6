"""Images in folders, one for each class, as torchvision's `ImageFolder` has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encapkeras.data.checks import counted
from encapkeras.data.image_files import ENDINGS
from encapkeras.data.registry import Array

MOST_NAMED = 5


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and the classes of the folders that they lie in.

    Args:
        paths: The files, class by class, each in the order of names.
        labels: `(N,)`, int64.
    """

    paths: tuple[str, ...]
    labels: Array


def classes_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones do not count."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def labelled_files(folder: Path, classes: Sequence[str], problems: list[str]) -> LabelledFiles:
    """All images below the folders of these classes, in whatever folders inside; hidden files do not count.

    Args:
        folder: What holds the folders of the classes.
        classes: Their names, in the order of the labels.
        problems: What is wrong is added here: files that are no images by their names.
    """
    paths: list[str] = []
    labels: list[int] = []
    strangers: list[str] = []
    for label, name in enumerate(classes):
        found, others = _files_below(folder / name)
        paths += found
        strangers += others
        labels += [label] * len(found)
    if strangers:
        problems.append(
            f"{counted(len(strangers), 'file')} whose names do not end as those of images do: {named(strangers)}. "
            f"Remove them; endings of images: {', '.join(ENDINGS)}"
        )
    return LabelledFiles(tuple(paths), np.array(labels, dtype=np.int64))


def stray_files(folder: Path) -> list[str]:
    """Files that lie in the folder itself instead of a class; hidden ones do not count."""
    entries = sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    return [path for path in entries if not os.path.basename(path).startswith(".")]


def named(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _files_below(folder: Path) -> tuple[list[str], list[str]]:
    """Images and other files, each in the order of their names."""
    images: list[str] = []
    others: list[str] = []
    for inner, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            (images if name.lower().endswith(ENDINGS) else others).append(os.path.join(inner, name))
    return images, others
