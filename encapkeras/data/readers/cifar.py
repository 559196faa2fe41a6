"""CIFAR's format: pickled batches of images.

Files are checked by their structure, not by a checksum, so that re-packed ones can be read. A pickle can run any code
when it is read, so only the few names that arrays are made of are let through, and none of them is called: what the
pickle asks for is written down, and an array of bytes is made of that.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays
from encapkeras.files import open_regular

MOST_STEPS = 1_000_000  # of a pickle; the published files have some 300,000
MOST_TUPLES = 1000  # many that are nested end Python


class CifarReader(DatasetReader):
    """Reader of pickled batches, the last of which is the test part."""

    image_size = 32
    files: ClassVar[DatasetFiles]
    class_names: ClassVar[tuple[str, ...]]
    label_key: ClassVar[str]

    def __init__(self, root: DataPath | None = None) -> None:
        self.root = root

    def describe(self) -> DatasetInfo:
        """32x32 color images."""
        return DatasetInfo(32, 32, 3, len(self.class_names), self.class_names, 50_000)

    def read(self) -> ImageArrays:
        """50,000 training and 10,000 test images in the published files."""
        batches = [self._batch(path) for path in self.files.locate(self.root)]
        arrays = ImageArrays(*_joined(batches[:-1]), *_joined(batches[-1:]))
        return check_arrays(self.files.dataset, arrays, len(self.class_names))

    def _batch(self, path: Path) -> tuple[Array, Array]:
        with self.files.reading(path), open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged strings
            pickled = file.read()
            _check_sizes(pickled)
            return images_and_labels(_Reader(io.BytesIO(pickled), encoding="latin1").load(), self.label_key)


def images_and_labels(content: Any, label_key: str) -> tuple[Array, Array]:
    """Return images `(N, 32, 32, 3)` and labels `(N,)` of a file; raise `ValueError` if it holds something else."""
    if not isinstance(content, dict) or not {"data", label_key} <= set(content):
        raise ValueError(f"it is not a pickled map with the keys 'data' and '{label_key}'")
    data, labels = _rows(content["data"]), content[label_key]
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels) or len(labels) != len(data):
        raise ValueError(f"'{label_key}' is not a list of {len(data)} integers")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


def _joined(batches: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _check_sizes(pickled: bytes) -> None:
    """Raise `ValueError` if a pickle asks for more memory than its bytes can fill, or for deeply nested tuples."""
    tuples = 0
    for steps, (code, argument, _) in enumerate(pickletools.genops(pickled)):
        tuples += "TUPLE" in code.name
        if steps > MOST_STEPS or tuples > MOST_TUPLES or ("PUT" in code.name and int(argument or 0) > len(pickled)):
            raise ValueError("it holds more than a map of arrays and lists")


@dataclass(eq=False, slots=True)
class _Asked:
    """Something that a pickle asks to be called, and the state that it asks to be set: neither is done."""

    name: str
    arguments: tuple[Any, ...]
    state: Any

    def __call__(self, *arguments: Any) -> _Asked:
        return _Asked(self.name, arguments, None)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """Unpickler of plain values and of what NumPy arrays are made of, which refuses everything else."""

    ALLOWED: ClassVar = {
        (module, name)
        for module, name in [
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        ]
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what notes down how the object of that name is called."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data does not need")
        return _Asked(name, (), None)


def _rows(asked: Any) -> Array:
    """Return the array `(N, 3072)` of unsigned bytes that a pickle asks for; raise `ValueError` for anything else."""
    shape: Any = ()
    kind: Any = None
    data: Any = None
    order: Any = None
    match asked:
        case _Asked(name="_reconstruct", state=(_, shape, kind, by_columns, data)):
            order = "F" if by_columns else "C"
        case _Asked(name="_frombuffer", arguments=(data, kind, shape, order)):
            pass
    if isinstance(data, _Asked) and data.name == "encode":  # bytes in protocols that have only text
        data, *_ = data.arguments
    is_bytes = isinstance(kind, _Asked) and kind.name == "dtype" and kind.arguments[:1] in (("u1",), ("|u1",))
    values = data.encode("latin1") if isinstance(data, str) else data
    right_shape = isinstance(shape, tuple) and len(shape) == 2 and shape[1] == 3072
    if not is_bytes or not right_shape or not isinstance(values, bytes | bytearray) or len(values) != math.prod(shape):
        raise ValueError("'data' is not an array of unsigned bytes of shape (N, 3072)")
    rows: Array = np.frombuffer(values, np.uint8).reshape(shape, order=order)
    return rows
