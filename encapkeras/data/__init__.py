"""Data sets as batches of tensors: registry, readers, augmentation, splits.

Needs no Keras: the batches are `torch.utils.data.DataLoader`s of float32 images `(B, H, W, C)` and int64 labels.
"""

from encapkeras.data import cifar, digits, mnist, npz, svhn  # each registers its data sets
from encapkeras.data.batches import Batches
from encapkeras.data.registry import DATASETS, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.data.settings import AugmentSettings, DataSettings
from encapkeras.data.splits import DataSplits, describe, load

__all__ = [
    "DATASETS",
    "AugmentSettings",
    "Batches",
    "DataSettings",
    "DataSplits",
    "DatasetInfo",
    "DatasetReader",
    "ImageArrays",
    "cifar",
    "describe",
    "digits",
    "load",
    "mnist",
    "npz",
    "register_dataset",
    "svhn",
]
