"""CIFAR-10."""

from __future__ import annotations

from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.readers.cifar import CifarReader
from encapkeras.data.registry import register_dataset


@register_dataset("cifar10")
class Cifar10(CifarReader):
    """Photographs in ten classes: 50,000 training and 10,000 test images of 32x32 color pixels.

    Args:
        root: Folder with the six batch files, or with torchvision's folder `cifar-10-batches-py` of them.
    """

    class_names = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
    label_key = "labels"
    files = DatasetFiles(
        dataset="cifar10",
        names=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
        subfolder="cifar-10-batches-py",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-10 python version, unpacked)",
        download=torchvision_download("CIFAR10"),
    )
