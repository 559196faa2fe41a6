"""Labels of which an image may have any number, as a matrix of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from encapkeras.data.checks import MOST_LISTED
from encapkeras.data.registry import Array
from encapkeras.text import counted, listed

MOST_NAMED = 10


def matrix_problems(parts: Mapping[str, Array], names: Sequence[str]) -> list[str]:
    """Return what is wrong with label matrices `(N, K)`, by their names, the first that of the training.

    Rows without any 1 are allowed: an image may show none of the things that are looked for.
    """
    problems = []
    for part, matrix in parts.items():
        if matrix.ndim != 2 or matrix.shape[1] != len(names):
            text = f"{part}: has shape {matrix.shape}; it must be (N, {len(names)}), a column for each label"
            problems.append(text)
            continue
        wrong = np.argwhere((matrix != 0) & (matrix != 1))
        if len(wrong):
            row, column = wrong[0].tolist()
            first = f"the first is {matrix[row, column]} at index {(row, column)}"
            problems.append(f"{part}: {counted(len(wrong), 'value')} other than 0 and 1, {first}")
    if not problems:
        part, matrix = next(iter(parts.items()))
        never = [name for label, name in enumerate(names) if not matrix[:, label].any()]
        if never:
            count = f"{len(never)} of {counted(len(names), 'label')}"
            text = f"{part}: {count} in no image, so that no network could learn them: {listed(never, MOST_NAMED)}"
            problems.append(text)
        if len(names) < 2:
            problems.append(f"{part}: has one column; a network needs at least two labels. Use two classes instead")
    return problems[:MOST_LISTED]


def as_targets(matrix: Array) -> Array:
    """Return a label matrix as losses take it."""
    return matrix.astype(np.float32)


def one_class_remark(matrix: Array) -> list[str]:
    """Return a remark if all images have exactly one label, as those of classes that exclude each other."""
    if not len(matrix) or not (matrix.sum(1) == 1).all():
        return []
    return [
        "each training image has exactly one label. If labels exclude each other, give classes instead: numbers (N,), "
        "such as train_labels.argmax(1)"
    ]
