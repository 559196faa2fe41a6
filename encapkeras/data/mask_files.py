"""Masks of images in files: PNG images whose pixels are the numbers of classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encapkeras.data.image_files import bound_pixels, image_size, opened
from encapkeras.errors import DataError
from encapkeras.files import reading

MODES = ("1", "L", "P", "I;16", "I")  # of Pillow: one whole number a pixel
SPREAD = {"L;2": 85, "L;4": 17}  # what Pillow multiplies gray values of 2 and 4 bits by, so that they go up to 255
MOST_CLASSES = 256


@dataclass(frozen=True)
class MaskFiles:
    """Masks that stay in their files until they are needed.

    Args:
        paths: The files.
        images: The image that each belongs to.
        classes: How many classes there are; pixels of masks are from 0 to one less.
    """

    paths: tuple[str, ...]
    images: tuple[str, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | npt.NDArray[Any]) -> MaskFiles:
        """Return the masks at these indices."""
        paths, images = (tuple(names[index] for index in indices) for names in (self.paths, self.images))
        return MaskFiles(paths, images, self.classes)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one mask `(H, W)`; raise `DataError` if it is damaged, no mask, or not as large as its image."""
        mask = read_mask(self.paths[index], self.classes)
        size = image_size(self.images[index])
        if mask.shape != size:
            raise DataError(
                f"{self.paths[index]}: the mask has {mask.shape[0]} x {mask.shape[1]} pixels (rows x columns), and its "
                f"image, {self.images[index]}, {size[0]} x {size[1]}. Make a mask as large as the image"
            )
        return mask


def read_mask(path: str | os.PathLike[str], classes: int) -> npt.NDArray[np.uint8]:
    """Return the mask in a file, `(H, W)`: gray values, or the indices of a palette, are numbers of classes.

    Args:
        path: A PNG file.
        classes: How many classes there are.

    Raises:
        DataError: The file is missing, damaged or not an image; its pixels are colors; or one is not a class.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).save(file.name)
        ...     read_mask(file.name, classes=3).tolist()
        [[0, 1], [2, 1]]
    """
    path = os.fspath(path)
    with reading(path, "a mask", DataError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        with opened(path) as image:
            if image.mode not in MODES:
                raise ValueError(
                    f"its pixels are colors ({image.mode}); a mask holds the number of a class for each pixel: save it "
                    "as a gray image, or with a palette"
                )
            bound_pixels(image, halved=False)
            tiles = getattr(image, "tile", None)  # before pixels are read, which empties it
            stored = str(tiles[0][3]) if tiles else ""
            numbers = np.asarray(image).astype(np.int64) // SPREAD.get(stored, 1)
    outside = np.argwhere(numbers >= classes)
    if len(outside):
        row, column = outside[0].tolist()
        hint = ". Use 0 and 1 in place of 0 and 255" if numbers[row, column] == 255 else ""
        raise DataError(
            f"{path}: {len(outside):,} of its {numbers.size:,} pixels are not classes, the first is "
            f"{numbers[row, column]} in row {row}, column {column}; there are {classes} classes, from 0 to "
            f"{classes - 1}{hint}"
        )
    return numbers.astype(np.uint8)
