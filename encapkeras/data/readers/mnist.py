"""MNIST and Fashion-MNIST: images and labels in IDX files.

The IDX format: two zero bytes, one byte for the type of the values (8: unsigned bytes), one for the number of axes, the
length of each axis as four bytes, highest first, then the values. Files may be gzipped, and are read where they lie.
Files are checked by their structure, not by a checksum, so that re-packed ones can be read.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles, damaged
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FIRST_LABELS = {"mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "fashion_mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)}


def read_idx(path: Path, axes: int) -> Array:
    """The array of unsigned bytes in an IDX file.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        axes: The number of axes that it must have.

    Raises:
        DataError: The file is no complete IDX file with so many axes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    if data[:4] != bytes([0, 0, 8, axes]):
        raise damaged(path, f"it does not begin as an IDX file of unsigned bytes with {axes} axes")
    header = 4 + 4 * axes
    shape = tuple(np.frombuffer(data[4:header].ljust(4 * axes, b"\0"), dtype=">u4").tolist())
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise damaged(path, f"it has {len(data)} bytes, its header of shape {shape} asks for {expected}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()


class IdxReader(DatasetReader):
    """Reads the four IDX files of a data set in the form of MNIST."""

    image_size = 32
    files: ClassVar[DatasetFiles]
    class_names: ClassVar[tuple[str, ...]]

    def __init__(self, root: DataPath | None = None) -> None:
        self.root = root

    def describe(self) -> DatasetInfo:
        """28x28 grey images of ten classes."""
        return DatasetInfo(28, 28, 1, 10, self.class_names, 60_000)

    def read(self) -> ImageArrays:
        """60,000 training and 10,000 test images in the published files."""
        paths = self.files.locate(self.root)
        train_images, train_labels = self._part(*paths[:2])
        test_images, test_labels = self._part(*paths[2:])
        self._refuse_the_sibling(train_labels, paths[1])
        arrays = ImageArrays(train_images, train_labels, test_images, test_labels)
        return check_arrays(self.files.dataset, arrays, len(self.class_names))

    def _part(self, images_path: Path, labels_path: Path) -> tuple[Array, Array]:
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if images.shape[1:] != (28, 28):
            raise damaged(images_path, f"its images have {images.shape[1]}x{images.shape[2]} pixels instead of 28x28")
        if len(images) != len(labels):
            raise damaged(labels_path, f"it has {len(labels)} labels for {len(images)} images in {images_path.name}")
        return images[..., np.newaxis], labels.astype(np.int64)

    def _refuse_the_sibling(self, labels: Array, path: Path) -> None:
        """Both data sets use the same file names: a folder of the one must not pass for the other."""
        for other, first in FIRST_LABELS.items():
            if other != self.files.dataset and tuple(labels[: len(first)].tolist()) == first:
                raise DataError(f"{path.parent} holds the files of '{other}', not of '{self.files.dataset}'")


def _download_mnist(root: str) -> None:
    from torchvision.datasets import MNIST

    MNIST(root, download=True)


def _download_fashion_mnist(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(root, download=True)


@register_dataset("mnist")
class Mnist(IdxReader):
    """Handwritten digits: 60,000 training and 10,000 test images of 28x28 grey pixels, enlarged to 32x32.

    Args:
        root: Folder with the four IDX files, or with torchvision's folder `MNIST/raw` of them.
    """

    class_names = DIGITS
    files = DatasetFiles(
        dataset="mnist",
        names=NAMES,
        subfolder="MNIST/raw",
        homepage="https://yann.lecun.com/exdb/mnist/",
        download=_download_mnist,
        gzipped=True,
    )


@register_dataset("fashion_mnist")
class FashionMnist(IdxReader):
    """Clothes: 60,000 training and 10,000 test images of 28x28 grey pixels, enlarged to 32x32.

    Args:
        root: Folder with the four IDX files, or with torchvision's folder `FashionMNIST/raw` of them.
    """

    class_names = CLOTHES
    files = DatasetFiles(
        dataset="fashion_mnist",
        names=NAMES,
        subfolder="FashionMNIST/raw",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        download=_download_fashion_mnist,
        system_folders=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
        gzipped=True,
    )
