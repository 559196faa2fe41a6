"""MNIST's format, which Fashion-MNIST shares: images and labels in IDX files.

An IDX file: two zero bytes, one byte for the type of the values (8: unsigned bytes), one for the number of axes, the
length of each axis as four bytes, highest first, then the values. Files may be gzipped, and are read where they are.
They are checked by their structure, not by a checksum, so that re-packed ones can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, array_in
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays
from encapkeras.errors import DataError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FIRST_LABELS = {"mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "fashion_mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)}


class IdxReader(DatasetReader):
    """Reader of four IDX files."""

    image_size = 32
    files: ClassVar[DatasetFiles]
    class_names: ClassVar[tuple[str, ...]]

    def __init__(self, root: DataPath | None = None) -> None:
        self.root = root

    def describe(self) -> DatasetInfo:
        """28x28 grayscale images of ten classes."""
        return DatasetInfo(28, 28, 1, 10, self.class_names, 60_000)

    def read(self) -> ImageArrays:
        """60,000 training and 10,000 test images in the published files."""
        paths = self.files.locate(self.root)
        train, test = self._part(*paths[:2]), self._part(*paths[2:])
        self._refuse_the_sibling(train[1], paths[1])
        return check_arrays(self.files.dataset, ImageArrays(*train, *test), len(self.class_names))

    def _part(self, images_path: Path, labels_path: Path) -> tuple[Array, Array]:
        with self.files.reading(images_path):
            images = read_idx(images_path, 3)
            if images.shape[1:] != (28, 28):
                raise ValueError(f"its images have {images.shape[1]}x{images.shape[2]} pixels instead of 28x28")
        with self.files.reading(labels_path):
            labels = read_idx(labels_path, 1)
            if len(images) != len(labels):
                raise ValueError(f"it has {len(labels)} labels for {len(images)} images in {images_path.name}")
        return images[..., np.newaxis], labels.astype(np.int64)

    def _refuse_the_sibling(self, labels: Array, path: Path) -> None:
        """Refuse the other data set in this format: both use the same file names."""
        for other, first in FIRST_LABELS.items():
            if other != self.files.dataset and tuple(labels[: len(first)].tolist()) == first:
                raise DataError(f"{path.parent} holds the files of '{other}', not of '{self.files.dataset}'")


def read_idx(path: Path, axes: int) -> Array:
    """Return the unsigned bytes in an IDX file with this many axes; raise `ValueError` if it is not one."""

    def header(start: bytes) -> tuple[int, list[int], type[np.uint8]]:
        end = 4 + 4 * axes
        if start[:4] != bytes([0, 0, 8, axes]):
            raise ValueError(f"it does not start like an IDX file of unsigned bytes with {axes} axes")
        return end, np.frombuffer(start[4:end].ljust(4 * axes, b"\0"), dtype=">u4").tolist(), np.uint8

    return array_in(path, header)
