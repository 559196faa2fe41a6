"""Checks that arrays read from files can be a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encapkeras.data.registry import Array, ImageArrays
from encapkeras.errors import DataError
from encapkeras.text import counted


def label_problems(name: str, labels: Array, classes: int) -> list[str]:
    """Return what is wrong with integer labels `(N,)`."""
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if not len(outside):
        return []
    first, count = outside[0], counted(len(outside), "label")
    return [f"{name}: {count} outside 0..{classes - 1}, the first is {labels[first]} at index {first}"]


def missing_classes(name: str, labels: Array, classes: int) -> list[str]:
    """Return which classes have no image; their number may be absurdly large, from a wrong label."""
    present = np.unique(labels)
    if len(present) == classes:
        return []
    missing = np.setdiff1d(np.arange(min(classes, len(present) + 5)), present)[:5].tolist()
    count = classes - len(present)
    listed = ", ".join(map(str, missing)) + (", ..." if count > len(missing) else "")
    hint = "; labels count from 0" if missing[0] == 0 else ""
    return [f"{name}: {count} of {classes} classes without any image: {listed}{hint}"]


def check_arrays(dataset: str, arrays: ImageArrays, classes: int) -> ImageArrays:
    """Return the arrays of a built-in data set; raise `DataError` for impossible labels and classes without images."""
    problems = []
    for name, labels in (("training labels", arrays.train_labels), ("test labels", arrays.test_labels)):
        problems += [f"{name}: there are none"] if not len(labels) else label_problems(name, labels, classes)
    problems = problems or missing_classes("training labels", arrays.train_labels, classes)
    if problems:
        raise listed_error(f"the files of data set '{dataset}' contain invalid values", problems)
    return arrays


def listed_error(text: str, problems: Sequence[str]) -> DataError:
    """Return an error that lists what is wrong, a line each."""
    return DataError("\n  ".join([f"{text}:", *problems]))
