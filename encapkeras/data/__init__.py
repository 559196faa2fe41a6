"""Data sets as batches of tensors.

Needs no Keras: the batches are `torch.utils.data.DataLoader`s of float32 images `(B, H, W, C)` and int64 labels.
Read `registry` (what a data set is), `settings` (the `data:` section), `splits` (from one to batches) and `batches`;
`readers/` has one data set per file. `windows`, `worker_processes` and `augment` make what a batch holds.
"""

import encapkeras.data.readers  # noqa: F401  # registers the data sets
from encapkeras.data.batches import Batches
from encapkeras.data.image_files import ImageFiles, read_image
from encapkeras.data.preprocess import prepare
from encapkeras.data.registry import DATASETS, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
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
    "describe",
    "load",
    "prepare",
    "read_image",
    "register_dataset",
]
