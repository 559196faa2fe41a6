"""Small NORB: stereo photographs of toys, in its own binary format.

The format: four bytes that say the type of the values (0x1E3D4C55: unsigned bytes; 0x1E3D4C54: 32-bit integers), four
for the number of axes, four for the length of each axis (three at least, whatever the number of axes), then the values;
all of it lowest byte first. Files `dat` hold the pairs of images, `cat` their classes, and `info` four numbers of each:
instance (which of the ten toys of its class), elevation, azimuth and lighting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from encapkeras.data.checks import check_arrays, check_no_image_in_both
from encapkeras.data.files import DatasetFiles, array_in
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError

CLASSES = ("animal", "human", "airplane", "truck", "car")
TYPES = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4"}
STEMS = ("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")

Split = Literal["instances", "novel_azimuths", "familiar_azimuths", "novel_elevations", "familiar_elevations"]
INFO_VALUES = {"instance": range(10), "elevation": range(9), "azimuth": range(0, 36, 2), "lighting": range(6)}
FAMILIAR = {"azimuths": ("azimuth", (0, 2, 4, 30, 32, 34)), "elevations": ("elevation", (0, 1, 2))}


@register_dataset("small_norb")
class SmallNorb(DatasetReader):
    """Toys from all sides: 24,300 training and 24,300 test pairs of 96x96 grayscale pixels, five classes.

    Args:
        root: Folder with the four files `smallnorb-*-dat.mat` and `smallnorb-*-cat.mat`; for the splits by viewpoint
            also the two `smallnorb-*-info.mat`.
        channels: 1 for the left image of each pair, 2 for both as channels.
        split: Which images are used. The test toys are never those of the training. `instances`: all. `novel_azimuths`:
            trains on azimuths 300 to 40 degrees (a third of all) and tests on the others; `familiar_azimuths`: the same
            training, and tests on the same azimuths. `novel_elevations` and `familiar_elevations`: the same with the
            lowest three of nine elevations.
    """

    image_size = 32

    def __init__(self, root: DataPath | None = None, channels: Literal[1, 2] = 1, split: Split = "instances") -> None:
        self.root = root
        self.channels = channels
        self.split = split
        contents = ("dat", "cat") if split == "instances" else ("dat", "cat", "info")
        self.files = DatasetFiles(
            dataset="small_norb",
            names=tuple(f"{stem}-{content}.mat" for stem in STEMS for content in contents),
            subfolder="small_norb",
            homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
            gzipped=True,
        )

    def describe(self) -> DatasetInfo:
        """96x96 images of five classes."""
        training = 24_300 if self.split == "instances" else 8_100
        return DatasetInfo(96, 96, self.channels, len(CLASSES), CLASSES, training)

    def read(self) -> ImageArrays:
        """24,300 training and 24,300 test images, or pairs of them, in the published files; fewer by viewpoint."""
        paths = self.files.locate(self.root)
        half = len(paths) // 2
        parts = [self._part(*files) for files in (paths[:half], paths[half:])]
        (train, train_labels, train_info), (test, test_labels, test_info) = parts
        check_no_image_in_both("small_norb", train, test)
        if train_info is not None and test_info is not None:
            _check_toys(np.c_[train_labels, train_info[:, 0]], np.c_[test_labels, test_info[:, 0]])
            novelty, _, angle = self.split.partition("_")
            seen, known = (_is_familiar(info, angle) for info in (train_info, test_info))
            tested = known if novelty == "familiar" else ~known
            train, train_labels, test, test_labels = train[seen], train_labels[seen], test[tested], test_labels[tested]
        train, test = (np.ascontiguousarray(pairs[:, : self.channels].transpose(0, 2, 3, 1)) for pairs in (train, test))
        return check_arrays("small_norb", ImageArrays(train, train_labels, test, test_labels), len(CLASSES))

    def _part(
        self, images_path: Path, labels_path: Path, info_path: Path | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Return pairs of images `(N, 2, 96, 96)`, labels `(N,)`, and, if asked for, the four numbers of each."""
        with self.files.reading(images_path):
            pairs = read_matrix(images_path)
            if pairs.dtype != np.uint8 or pairs.ndim != 4 or pairs.shape[1:] != (2, 96, 96):
                raise ValueError(f"it holds {pairs.dtype} {pairs.shape} instead of uint8 (N, 2, 96, 96)")
        with self.files.reading(labels_path):
            labels = read_matrix(labels_path)
            if labels.dtype != np.int32 or labels.shape != (len(pairs),):
                raise ValueError(f"it holds {labels.dtype} {labels.shape} instead of int32 ({len(pairs)},)")
        if info_path is None:
            return pairs, labels.astype(np.int64), None
        with self.files.reading(info_path):
            info = read_matrix(info_path)
            if info.dtype != np.int32 or info.shape != (len(pairs), 4):
                raise ValueError(f"it holds {info.dtype} {info.shape} instead of int32 ({len(pairs)}, 4)")
            for column, (name, values) in zip(info.T, INFO_VALUES.items(), strict=True):
                wrong = np.flatnonzero(~np.isin(column, values))
                if len(wrong):
                    allowed = f"{values.start}..{values[-1]}{', even' if values.step == 2 else ''}"
                    raise ValueError(f"the {name} of image {wrong[0]} is {column[wrong[0]]}; it must be {allowed}")
        return pairs, labels.astype(np.int64), info


def _check_toys(train: Array, test: Array) -> None:
    """Check that no toy, a class and a number in a row each, is in both parts: the split would measure nothing."""
    shared = set(map(tuple, train.tolist())) & set(map(tuple, test.tolist()))
    if shared:
        label, number = min(shared)
        name = CLASSES[label] if 0 <= label < len(CLASSES) else label
        raise DataError(
            f"the files of data set 'small_norb' have {len(shared)} toys in both training and test images, the first "
            f"is instance {number} of class {name}. The published files have none; get these again."
        )


def _is_familiar(info: Array, angle: str) -> Array:
    name, values = FAMILIAR[angle]
    return np.isin(info[:, list(INFO_VALUES).index(name)], values)


def read_matrix(path: Path) -> Array:
    """Return the array in a file of the NORB format; raise `ValueError` if it is not one."""

    def header(start: bytes) -> tuple[int, list[int], str]:
        magic, axes = np.frombuffer(start[:8].ljust(8, b"\0"), dtype="<u4").tolist()
        if magic not in TYPES or not 1 <= axes <= 8:
            raise ValueError("it does not start like a file of bytes or 32-bit integers in the format of NORB")
        shape = np.frombuffer(start[8 : 8 + 4 * axes].ljust(4 * axes, b"\0"), dtype="<u4").tolist()
        return 8 + 4 * max(axes, 3), shape, TYPES[magic]

    return array_in(path, header)
