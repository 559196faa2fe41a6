"""CIFAR-10 and CIFAR-100: pickled batches.

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
from encapkeras.data.files import DatasetFiles, damaged
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and NumPy arrays, and refuses all others."""

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
        """The object of that name, if arrays need it."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no need of")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_batch(path: Path, label_key: str) -> tuple[Array, Array]:
    """Images `(N, 32, 32, 3)` and labels `(N,)` of one file.

    Args:
        path: The file; a pickled map with `data` (N, 3072), uint8, colour planes one after the other.
        label_key: The key of the labels.

    Raises:
        DataError: The file is no such pickle.
    """
    try:
        with path.open("rb") as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # Python names no end to what reading damaged pickles can raise
        raise damaged(path, error) from error
    if not isinstance(content, dict) or not {"data", label_key} <= set(content):
        raise damaged(path, f"it is no pickled map with the keys 'data' and '{label_key}'")
    data, labels = content["data"], content[label_key]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise damaged(path, "'data' is no array of unsigned bytes of shape (N, 3072)")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels) or len(labels) != len(data):
        raise damaged(path, f"'{label_key}' is no list of {len(data)} whole numbers")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


class CifarReader(DatasetReader):
    """Reads the pickled files of CIFAR; the last file is the test part."""

    image_size = 32
    files: ClassVar[DatasetFiles]
    class_names: ClassVar[tuple[str, ...]]
    label_key: ClassVar[str]

    def __init__(self, root: DataPath | None = None) -> None:
        self.root = root

    def describe(self) -> DatasetInfo:
        """32x32 colour images."""
        return DatasetInfo(32, 32, 3, len(self.class_names), self.class_names, 50_000)

    def read(self) -> ImageArrays:
        """50,000 training and 10,000 test images in the published files."""
        batches = [read_batch(path, self.label_key) for path in self.files.locate(self.root)]
        arrays = ImageArrays(*_joined(batches[:-1]), *_joined(batches[-1:]))
        return check_arrays(self.files.dataset, arrays, len(self.class_names))


def _joined(batches: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _download_cifar10(root: str) -> None:
    from torchvision.datasets import CIFAR10

    CIFAR10(root, download=True)


def _download_cifar100(root: str) -> None:
    from torchvision.datasets import CIFAR100

    CIFAR100(root, download=True)


@register_dataset("cifar10")
class Cifar10(CifarReader):
    """Photographs in ten classes: 50,000 training and 10,000 test images of 32x32 colour pixels.

    Args:
        root: Folder with the six batch files, or with torchvision's folder `cifar-10-batches-py` of them.
    """

    class_names = CIFAR10_CLASSES
    label_key = "labels"
    files = DatasetFiles(
        dataset="cifar10",
        names=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
        subfolder="cifar-10-batches-py",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-10 python version, unpacked)",
        download=_download_cifar10,
    )


@register_dataset("cifar100")
class Cifar100(CifarReader):
    """Photographs in a hundred classes: 50,000 training and 10,000 test images of 32x32 colour pixels.

    Args:
        root: Folder with the files `train` and `test`, or with torchvision's folder `cifar-100-python` of them.
    """

    class_names = CIFAR100_CLASSES
    label_key = "fine_labels"
    files = DatasetFiles(
        dataset="cifar100",
        names=("train", "test"),
        subfolder="cifar-100-python",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-100 python version, unpacked)",
        download=_download_cifar100,
    )
