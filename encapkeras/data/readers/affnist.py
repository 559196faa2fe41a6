"""affNIST: MNIST's digits turned, sheared, scaled and moved, in MATLAB files of one structure each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic

from encapkeras.data.checks import check_arrays
from encapkeras.data.files import DatasetFiles
from encapkeras.data.readers.matlab import numbers_in
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset

CENTERED, TEST = "just_centered/training_and_validation.mat", "transformed/test.mat"
TRANSFORMED = "transformed/training_and_validation_batches/{number}.mat"
PIXELS = 40 * 40


@register_dataset("affnist")
class AffNist(DatasetReader):
    """MNIST's digits on 40x40 pixels; those of the test are turned, sheared, scaled and moved at random.

    Args:
        root: Folder with the published folders `just_centered` and `transformed`.
        training_files: How many of the 32 files of transformed training images are used, 60,000 images each, which are
            versions of the same digits. 0: none of them, but MNIST's 60,000 digits in the middle, as capsule papers do.
    """

    image_size = 40
    class_names = tuple("0123456789")

    def __init__(
        self, root: DataPath | None = None, training_files: Annotated[int, pydantic.Field(ge=0, le=32)] = 0
    ) -> None:
        self.root = root
        self.training_files = training_files
        training = [TRANSFORMED.format(number=number) for number in range(1, training_files + 1)]
        self.files = DatasetFiles(
            dataset="affnist",
            names=(TEST, *(training or [CENTERED])),
            subfolder="affNIST",
            homepage="https://www.cs.toronto.edu/~tijmen/affNIST/32x/",
        )

    def describe(self) -> DatasetInfo:
        """40x40 images of ten digits."""
        return DatasetInfo(40, 40, 1, 10, self.class_names, 60_000 * max(self.training_files, 1))

    def read(self) -> ImageArrays:
        """60,000 training images, or those of each file, and all images of the test's file."""
        test, *training = map(self._part, self.files.locate(self.root))
        images, labels = zip(*training, strict=True)
        return check_arrays("affnist", ImageArrays(np.concatenate(images), np.concatenate(labels), *test), 10)

    def _part(self, path: Path) -> tuple[Array, Array]:
        """Return images `(N, 40, 40, 1)` and labels `(N,)` of a file with `image` (1600, N) and `label_int` (1, N)."""
        with self.files.reading(path):
            content = numbers_in(path, ("image", "label_int"), structure="affNISTdata")
            if not {"image", "label_int"} <= set(content):
                raise ValueError("it does not hold a structure affNISTdata with the fields image and label_int")
            images, labels = content["image"], content["label_int"]
            if images.dtype != np.uint8 or images.ndim != 2 or len(images) != PIXELS:
                raise ValueError(
                    f"image is {images.dtype} {images.shape}; it must be uint8 (1600, N), an image a column"
                )
            count = images.shape[1]
            if labels.dtype.kind == "f":  # NaN and numbers that no integer can hold become one that is not whole
                labels = np.where(np.abs(labels) < 2**31, labels, 0.5)
            if labels.shape not in ((1, count), (count, 1)) or (labels != np.floor(labels)).any():
                raise ValueError(f"label_int is {labels.dtype} {labels.shape}; it must be whole numbers (1, {count})")
        # Each column holds the rows of an image, one after the other, unlike the columns of MATLAB's own images.
        return np.ascontiguousarray(images.T).reshape(count, 40, 40, 1), labels.reshape(-1).astype(np.int64)
