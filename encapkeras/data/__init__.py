"""Data sets as batches of tensors.

Needs no Keras: the batches are `torch.utils.data.DataLoader`s of float32 images `(B, H, W, C)` and int64 labels.
Read `registry` (what a data set is), `settings` (the `data:` section), `description` (what a network has to know of
it), `splits` (from one to batches) and `batches`; `readers/` has one data set per file. `windows`, `worker_processes`
and `augment` make what a batch holds. What needs torch is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import encapkeras.data.readers  # noqa: F401  # registers the data sets
from encapkeras.data.description import describe
from encapkeras.data.image_files import ImageFiles, read_image
from encapkeras.data.mask_files import MaskFiles
from encapkeras.data.registry import DATASETS, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.data.settings import AffineSettings, AugmentSettings, DataSettings

if TYPE_CHECKING:
    from encapkeras.data.batches import Batches
    from encapkeras.data.preprocess import prepare
    from encapkeras.data.splits import DataSplits, load

_NEED_TORCH = {"Batches": "batches", "DataSplits": "splits", "load": "splits", "prepare": "preprocess"}  # name: module

__all__ = [
    "DATASETS",
    "AffineSettings",
    "AugmentSettings",
    "Batches",
    "DataPath",
    "DataSettings",
    "DataSplits",
    "DatasetInfo",
    "DatasetReader",
    "ImageArrays",
    "ImageFiles",
    "MaskFiles",
    "describe",
    "load",
    "prepare",
    "read_image",
    "register_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'encapkeras.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"encapkeras.data.{_NEED_TORCH[name]}"), name)
