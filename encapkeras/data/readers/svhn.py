"""SVHN: images and labels in MATLAB files, checked by their structure, not by a checksum."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, damaged
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset


def _files(*splits: str) -> DatasetFiles:
    def download(root: str) -> None:
        from torchvision.datasets import SVHN

        for split in splits:
            SVHN(root, split=split, download=True)

    return DatasetFiles(
        dataset="svhn",
        names=tuple(f"{split}_32x32.mat" for split in splits),
        subfolder="",
        homepage="http://ufldl.stanford.edu/housenumbers/",
        download=download,
    )


@register_dataset("svhn")
class Svhn(DatasetReader):
    """House numbers: 73,257 training and 26,032 test images of 32x32 colour pixels, ten digits.

    Args:
        root: Folder with `train_32x32.mat` and `test_32x32.mat`.
        extra: Whether the 531,131 easier images of `extra_32x32.mat` are training images too.
    """

    image_size = 32
    class_names = tuple("0123456789")

    def __init__(self, root: DataPath | None = None, extra: bool = False) -> None:
        self.root = root
        self.extra = extra

    def describe(self) -> DatasetInfo:
        """32x32 colour images of ten digits."""
        return DatasetInfo(32, 32, 3, 10, self.class_names, 73_257 + (531_131 if self.extra else 0))

    def read(self) -> ImageArrays:
        """73,257 (with the extra ones 604,388) training and 26,032 test images in the published files."""
        files = _files("train", "test", *(["extra"] if self.extra else []))
        train, test, *extra = map(_read_mat, files.locate(self.root))
        images, labels = zip(train, *extra, strict=True)
        return check_arrays("svhn", ImageArrays(np.concatenate(images), np.concatenate(labels), *test), 10)


def _read_mat(path: Path) -> tuple[Array, Array]:
    """Images `(N, 32, 32, 3)` and labels `(N,)` of one file, which stores `X` (32, 32, 3, N) and `y` (N, 1)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=("X", "y"))
    except (
        MatReadError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        NotImplementedError,
        zlib.error,
    ) as error:
        raise damaged(path, error) from error
    if not {"X", "y"} <= set(content):
        raise damaged(path, "it does not hold both arrays X and y")
    images, labels = np.asarray(content["X"]), np.asarray(content["y"])
    if images.shape[:3] != (32, 32, 3) or images.ndim != 4 or images.dtype != np.uint8:
        raise damaged(path, f"X is {images.dtype} {images.shape}; it must be uint8 (32, 32, 3, N)")
    if labels.shape != (images.shape[3], 1) or labels.dtype.kind not in "ui":
        raise damaged(path, f"y is {labels.dtype} {labels.shape}; it must be whole numbers ({images.shape[3]}, 1)")
    labels = labels[:, 0].astype(np.int64)
    labels[labels == 10] = 0  # SVHN writes the digit 0 as 10
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels
