"""SVHN: images and labels in MATLAB files, checked by their structure, not by a checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.files import open_regular

# Numbers of the format: of elements, of the values in them, and of the arrays that they become.
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}

MOST_PACKED = 100  # times that compression makes an array smaller, apart from small ones; photographs hardly reach 3


@register_dataset("svhn")
class Svhn(DatasetReader):
    """House numbers: 73,257 training and 26,032 test images of 32x32 color pixels, ten digits.

    Args:
        root: Folder with `train_32x32.mat` and `test_32x32.mat`.
        extra: Whether the 531,131 easier images of `extra_32x32.mat` are training images too.
    """

    image_size = 32
    class_names = tuple("0123456789")

    def __init__(self, root: DataPath | None = None, extra: bool = False) -> None:
        self.root = root
        self.extra = extra
        splits = ("train", "test", "extra") if extra else ("train", "test")
        self.files = DatasetFiles(
            dataset="svhn",
            names=tuple(f"{split}_32x32.mat" for split in splits),
            subfolder="",
            homepage="http://ufldl.stanford.edu/housenumbers/",
            download=torchvision_download("SVHN", *splits),
        )

    def describe(self) -> DatasetInfo:
        """32x32 color images of ten digits."""
        return DatasetInfo(32, 32, 3, 10, self.class_names, 73_257 + (531_131 if self.extra else 0))

    def read(self) -> ImageArrays:
        """73,257 (with the extra ones 604,388) training and 26,032 test images in the published files."""
        train, test, *extra = map(self._part, self.files.locate(self.root))
        images, labels = zip(train, *extra, strict=True)
        return check_arrays("svhn", ImageArrays(np.concatenate(images), np.concatenate(labels), *test), 10)

    def _part(self, path: Path) -> tuple[Array, Array]:
        """Return images `(N, 32, 32, 3)` and labels `(N,)` of a file with `X` (32, 32, 3, N) and `y` (N, 1)."""
        with self.files.reading(path):
            content = _numbers_in(path)
            if not {"X", "y"} <= set(content):
                raise ValueError("it does not hold both arrays X and y")
            images, labels = np.asarray(content["X"]), np.asarray(content["y"])
            if images.shape[:3] != (32, 32, 3) or images.ndim != 4 or images.dtype != np.uint8:
                raise ValueError(f"X is {images.dtype} {images.shape}; it must be uint8 (32, 32, 3, N)")
            if labels.shape != (images.shape[3], 1) or labels.dtype.kind not in "ui":
                raise ValueError(f"y is {labels.dtype} {labels.shape}; it must be integers ({images.shape[3]}, 1)")
        labels = labels[:, 0].astype(np.int64)
        labels[labels == 10] = 0  # SVHN writes the digit 0 as 10
        return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels


def _numbers_in(path: Path) -> dict[str, Array]:
    """Return the arrays X and y of a file of MATLAB 5 to 7.2; raise `ValueError` for what is no array of numbers.

    SciPy's reader crashes on some damaged files. The format: 128 bytes, the last two of which say which byte of a
    number comes first; then elements (`_elements`), of which a matrix consists of flags, lengths, a name and values.
    """
    with open_regular(path) as file:
        content = memoryview(file.read())
    if bytes(content[124:128]) not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError("it does not start like a file of MATLAB 5 to 7.2")
    order = "<" if content[126] == ord("I") else ">"
    arrays = {}
    for kind, element in _elements(content[128:], order):
        matrix = element
        if kind == COMPRESSED:
            [(kind, matrix)] = islice(_elements(_decompressed(element), order), 2)
        if kind == MATRIX:
            (numbers, flags), (integers, lengths), (text, name), *values = islice(_elements(matrix, order), 5)
            if [TYPES.get(each) for each in (numbers, integers, text)] != ["u4", "i4", "i1"]:
                raise ValueError("a matrix in it does not start with flags, lengths and a name")
            if bytes(name) in (b"X", b"y"):
                arrays[bytes(name).decode()] = _array(flags, lengths, values, order)
    return arrays


def _decompressed(element: memoryview) -> memoryview:
    unpacking, most = zlib.decompressobj(), MOST_PACKED * len(element) + 2**20
    content = unpacking.decompress(element, most)
    if not unpacking.eof:  # where the checksum is
        raise ValueError(f"a compressed array in it has no end, or is more than {MOST_PACKED} times as long")
    return memoryview(content)


def _array(flags: memoryview, lengths: memoryview, values: Sequence[tuple[int, memoryview]], order: str) -> Array:
    number_class = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF
    shape = np.frombuffer(lengths, f"{order}i4").tolist()
    if number_class not in CLASSES or len(values) != 1 or values[0][0] not in TYPES or min(shape) < 0:
        raise ValueError("it holds something else than arrays of real numbers")
    [(kind, data)] = values
    numbers = np.frombuffer(data, order + TYPES[kind]).astype(CLASSES[number_class], copy=False)
    return numbers.reshape(shape, order="F")


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of elements: two numbers (type, bytes), or in short both in the first with 4 bytes."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, after = place + 8, place + 8 + size + -size % 8
        if kind >> 16:
            kind, size, start, after = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if start + size > len(content):
            raise ValueError("it ends in the middle of an array")
        yield kind, content[start : start + size]
        place = start + size if kind == COMPRESSED else after
