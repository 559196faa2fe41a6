"""Two images of different classes as one, whose pixels are the larger ones: `data.overlap`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from encapkeras.data.registry import Array
from encapkeras.data.settings import OVERLAP_SHIFT
from encapkeras.data.windows import Windows
from encapkeras.errors import DataError, printable
from encapkeras.text import counted

MARGIN = 2 * OVERLAP_SHIFT  # black pixels around an image: each place of the larger window in it is a shift
FIXED = (0, 2)  # the seed of pairs that are always the same: those of validation and test


def check_parts(parts: Mapping[str, Array], class_names: Sequence[str]) -> None:
    """Check that each part of a data set, given by its labels `(N,)`, has images of different classes."""
    alone = [
        f"the {part} part has {counted(len(labels), 'image')}, of class '{printable(class_names[labels[0]])}' alone"
        for part, labels in parts.items()
        if len(labels) and (labels == labels[0]).all()
    ]
    if alone:
        raise DataError(
            f"data.overlap puts two images of different classes into one, and {', and '.join(alone)}. Give each part "
            "images of two classes; data.validation says how many are held out, data.subset how many are used"
        )


def draw_pairs(labels: Array, random: np.random.Generator) -> dict[str, Array]:
    """Draw for each image, of labels `(N,)`, a partner of another class, all equally likely, and the places of both."""
    count, sizes = len(labels), np.bincount(labels)
    if sizes.max(initial=0) == count:
        raise DataError(
            "data.overlap puts two images of different classes into one, and all of these images have the same class"
        )
    # Sorted by their classes, the images of the other classes are those before and after the own class.
    by_class, starts, own = np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes, sizes[labels]
    ranks = random.integers(count - own)
    ranks += np.where(ranks >= starts[labels], own, 0)
    places = random.integers(2 * OVERLAP_SHIFT + 1, size=(4, count))
    names = ("tops", "lefts", "partner_tops", "partner_lefts")
    return {"partners": by_class[ranks], **dict(zip(names, places, strict=True))}


def fixed_pairs(labels: Array) -> dict[str, Array]:
    """Return pairs that are the same each time."""
    return draw_pairs(labels, np.random.default_rng(FIXED))


def merged(windows: Windows, draws: dict[str, Array]) -> Tensor:
    """Return the larger pixels of the windows of two images each, `(B, H, W, C)`."""
    first = windows.cut(draws["order"], draws["tops"], draws["lefts"])
    return torch.maximum(first, windows.cut(draws["partners"], draws["partner_tops"], draws["partner_lefts"]))


def both_classes(labels: Tensor, draws: dict[str, Array], classes: int) -> Tensor:
    """Return which classes are in each pair, `(B, K)`, 1 or 0, float32, from the labels `(N,)` of all images."""
    present = torch.zeros(len(draws["order"]), classes)
    for name in ("order", "partners"):
        present.scatter_(1, labels[torch.from_numpy(draws[name])][:, None], 1)
    return present


class PairWindows:
    """The images of a source, each with a partner that is always the same, as a source of their own."""

    rows = columns = 1

    def __init__(self, source: Windows, pairs: dict[str, Array]) -> None:
        self._source, self._pairs = source, pairs

    def __len__(self) -> int:
        return len(self._source)

    def cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        """Return windows, as `Windows` says; their place is always the same."""
        return merged(self._source, {"order": order, **{name: each[order] for name, each in self._pairs.items()}})
