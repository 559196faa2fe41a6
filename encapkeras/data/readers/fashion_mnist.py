"""Fashion-MNIST."""

from __future__ import annotations

from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.readers.idx import NAMES, IdxReader
from encapkeras.data.registry import register_dataset


@register_dataset("fashion_mnist")
class FashionMnist(IdxReader):
    """Clothes: 60,000 training and 10,000 test images of 28x28 grayscale pixels, enlarged to 32x32.

    Args:
        root: Folder with the four IDX files, or with torchvision's folder `FashionMNIST/raw` of them.
    """

    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    files = DatasetFiles(
        dataset="fashion_mnist",
        names=NAMES,
        subfolder="FashionMNIST/raw",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        download=torchvision_download("FashionMNIST"),
        system_folders=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
        gzipped=True,
    )
