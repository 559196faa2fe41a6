"""Data sets as batches of tensors: registry, readers, augmentation, splits.

Needs no Keras: the batches are `torch.utils.data.DataLoader`s of float32 images `(B, H, W, C)` and int64 labels.
"""

from encapkeras.data.batches import Batches
from encapkeras.data.image_files import ImageFiles, read_image
from encapkeras.data.preprocess import prepare
from encapkeras.data.readers import (
    cifar,
    digits,
    h_imagenet,
    image_folder,
    mnist,
    npz,
    small_norb,
    svhn,
)  # each registers its data sets
from encapkeras.data.registry import (
    DATASETS,
    DataPath,
    DatasetInfo,
    DatasetReader,
    ImageArrays,
    register_dataset,
)
from encapkeras.data.settings import AugmentSettings, DataSettings
from encapkeras.data.splits import DataSplits, describe, load

__all__ = [
    "DATASETS",
    "AugmentSettings",
    "Batches",
    "DataPath",
    "DataSettings",
    "DataSplits",
    "DatasetInfo",
    "DatasetReader",
    "ImageArrays",
    "ImageFiles",
    "cifar",
    "describe",
    "digits",
    "h_imagenet",
    "image_folder",
    "load",
    "mnist",
    "npz",
    "prepare",
    "read_image",
    "register_dataset",
    "small_norb",
    "svhn",
]
