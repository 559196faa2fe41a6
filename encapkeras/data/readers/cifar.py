"""CIFAR's format: pickled batches of images.

Files are checked by their structure, not by a checksum, so that re-packed ones can be read. A pickle can run any code
when it is read, so only the few names that arrays are made of are let through.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays


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
        # Python names no end to what reading damaged pickles can raise.
        with self.files.reading(path, Exception), path.open("rb") as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
            return images_and_labels(content, self.label_key)


def images_and_labels(content: Any, label_key: str) -> tuple[Array, Array]:
    """Return images `(N, 32, 32, 3)` and labels `(N,)` of a file; raise `ValueError` if it holds something else."""
    if not isinstance(content, dict) or not {"data", label_key} <= set(content):
        raise ValueError(f"it is not a pickled map with the keys 'data' and '{label_key}'")
    data, labels = content["data"], content[label_key]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError("'data' is not an array of unsigned bytes of shape (N, 3072)")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels) or len(labels) != len(data):
        raise ValueError(f"'{label_key}' is not a list of {len(data)} integers")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


def _joined(batches: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of plain values and NumPy arrays, which refuses everything else."""

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
        """Return the object of that name, if arrays need it."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data does not need")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
