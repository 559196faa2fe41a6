"""Small NORB: stereo photographs of toys, in its own binary format.

The format: four bytes that say the type of the values (0x1E3D4C55: unsigned bytes; 0x1E3D4C54: 32-bit integers), four
for the number of axes, four for the length of each axis (three at least, whatever the number of axes), then the values;
all of it lowest byte first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, array_in
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset

CLASSES = ("animal", "human", "airplane", "truck", "car")
TYPES = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4"}
STEMS = ("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")


@register_dataset("small_norb")
class SmallNorb(DatasetReader):
    """Toys from all sides: 24,300 training and 24,300 test pairs of 96x96 grayscale pixels, five classes.

    Args:
        root: Folder with the four files `smallnorb-*-dat.mat` and `smallnorb-*-cat.mat`.
        channels: 1 for the left image of each pair, 2 for both as channels.
    """

    image_size = 32
    files = DatasetFiles(
        dataset="small_norb",
        names=tuple(f"{stem}-{content}.mat" for stem in STEMS for content in ("dat", "cat")),
        subfolder="small_norb",
        homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        gzipped=True,
    )

    def __init__(self, root: DataPath | None = None, channels: Literal[1, 2] = 1) -> None:
        self.root = root
        self.channels = channels

    def describe(self) -> DatasetInfo:
        """96x96 images of five classes."""
        return DatasetInfo(96, 96, self.channels, len(CLASSES), CLASSES, 24_300)

    def read(self) -> ImageArrays:
        """24,300 training and 24,300 test images, or pairs of them, in the published files."""
        paths = self.files.locate(self.root)
        arrays = ImageArrays(*self._part(*paths[:2]), *self._part(*paths[2:]))
        return check_arrays("small_norb", arrays, len(CLASSES))

    def _part(self, images_path: Path, labels_path: Path) -> tuple[Array, Array]:
        with self.files.reading(images_path):
            pairs = read_matrix(images_path)
            if pairs.dtype != np.uint8 or pairs.ndim != 4 or pairs.shape[1:] != (2, 96, 96):
                raise ValueError(f"it holds {pairs.dtype} {pairs.shape} instead of uint8 (N, 2, 96, 96)")
        with self.files.reading(labels_path):
            labels = read_matrix(labels_path)
            if labels.dtype != np.int32 or labels.shape != (len(pairs),):
                raise ValueError(f"it holds {labels.dtype} {labels.shape} instead of int32 ({len(pairs)},)")
        images = pairs[:, : self.channels].transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), labels.astype(np.int64)


def read_matrix(path: Path) -> Array:
    """Return the array in a file of the NORB format; raise `ValueError` if it is not one."""

    def header(start: bytes) -> tuple[int, list[int], str]:
        magic, axes = np.frombuffer(start[:8].ljust(8, b"\0"), dtype="<u4").tolist()
        if magic not in TYPES or not 1 <= axes <= 8:
            raise ValueError("it does not start like a file of bytes or 32-bit integers in the format of NORB")
        shape = np.frombuffer(start[8 : 8 + 4 * axes].ljust(4 * axes, b"\0"), dtype="<u4").tolist()
        return 8 + 4 * max(axes, 3), shape, TYPES[magic]

    return array_in(path, header)
