"""SVHN: images and labels in MATLAB files, checked by their structure, not by a checksum."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.readers.matlab import numbers_in
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset


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
            content = numbers_in(path, ("X", "y"))
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
