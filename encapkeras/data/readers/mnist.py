"""MNIST."""

from __future__ import annotations

from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.readers.idx import NAMES, IdxReader
from encapkeras.data.registry import register_dataset


@register_dataset("mnist")
class Mnist(IdxReader):
    """Handwritten digits: 60,000 training and 10,000 test images of 28x28 grayscale pixels, enlarged to 32x32.

    Args:
        root: Folder with the four IDX files, or with torchvision's folder `MNIST/raw` of them.
    """

    class_names = tuple("0123456789")
    files = DatasetFiles(
        dataset="mnist",
        names=NAMES,
        subfolder="MNIST/raw",
        homepage="https://yann.lecun.com/exdb/mnist/",
        download=torchvision_download("MNIST"),
        gzipped=True,
    )
