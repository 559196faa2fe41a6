"""Small NORB: stereo photographs of toys, in a binary format of its own.

The format: four bytes that say the type of the values (0x1E3D4C55: unsigned bytes; 0x1E3D4C54: 32-bit integers), four
for the number of axes, four for the length of each axis (three at least, whatever the number of axes), then the values;
all of it lowest byte first.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, damaged
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset

CLASSES = ("animal", "human", "airplane", "truck", "car")
TYPES = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4"}
STEMS = ("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")


def read_matrix(path: Path) -> Array:
    """The array in a file of the NORB format.

    Args:
        path: The file; gzipped if its name ends in `.gz`.

    Raises:
        DataError: The file is no complete file of this format.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error, downloaded=False) from error
    magic, axes = np.frombuffer(data[:8].ljust(8, b"\0"), dtype="<u4").tolist()
    if magic not in TYPES or not 1 <= axes <= 8:
        raise damaged(
            path, "it does not begin as a file of bytes or 32-bit integers in the format of NORB", downloaded=False
        )
    header = 8 + 4 * max(axes, 3)
    shape = tuple(np.frombuffer(data[8 : 8 + 4 * axes].ljust(4 * axes, b"\0"), dtype="<u4").tolist())
    dtype = np.dtype(TYPES[magic])
    expected = header + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) != expected:
        raise damaged(
            path, f"it has {len(data)} bytes, its header of shape {shape} asks for {expected}", downloaded=False
        )
    return np.frombuffer(data, dtype=dtype, offset=header).reshape(shape)


@register_dataset("small_norb")
class SmallNorb(DatasetReader):
    """Toys from all sides: 24,300 training and 24,300 test pairs of 96x96 grey pixels, five classes.

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
        train_images, train_labels, test_images, test_labels = self.files.locate(self.root)
        arrays = ImageArrays(*self._part(train_images, train_labels), *self._part(test_images, test_labels))
        return check_arrays("small_norb", arrays, len(CLASSES))

    def _part(self, images_path: Path, labels_path: Path) -> tuple[Array, Array]:
        pairs, labels = read_matrix(images_path), read_matrix(labels_path)
        if pairs.dtype != np.uint8 or pairs.ndim != 4 or pairs.shape[1:] != (2, 96, 96):
            raise damaged(
                images_path, f"it holds {pairs.dtype} {pairs.shape} instead of uint8 (N, 2, 96, 96)", downloaded=False
            )
        if labels.dtype != np.int32 or labels.shape != (len(pairs),):
            raise damaged(
                labels_path,
                f"it holds {labels.dtype} {labels.shape} instead of int32 ({len(pairs)},)",
                downloaded=False,
            )
        images = pairs[:, : self.channels].transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), labels.astype(np.int64)
