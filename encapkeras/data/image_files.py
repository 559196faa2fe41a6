"""Image files of every common format, as arrays of bytes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encapkeras.data.object_boxes import Box, read_box
from encapkeras.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files until they are needed.

    Args:
        paths: The files.
        channels: 1 for grayscale, 3 for color; all images are converted to that.
        boxes: For each file the .xml file with the box around its object, to which it is cut; None: it is used whole.
    """

    paths: tuple[str, ...]
    channels: int
    boxes: tuple[str | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | npt.NDArray[Any]) -> ImageFiles:
        """Return the files at these indices."""
        boxes = None if self.boxes is None else tuple(self.boxes[index] for index in indices)
        return ImageFiles(tuple(self.paths[index] for index in indices), self.channels, boxes)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, `(H, W, channels)`; raise `DataError` if its file is missing or damaged."""
        boxes = self.boxes and self.boxes[index]
        return read_image(self.paths[index], self.channels, read_box(boxes) if boxes else None)


def read_image(path: str | os.PathLike[str], channels: int, box: Box | None = None) -> npt.NDArray[np.uint8]:
    """Return the image in a file, upright as its EXIF data say.

    Transparent parts are laid on white; of a moving image the first frame is taken. Gray is repeated where color is
    asked for, and color becomes gray (ITU-R BT.601) where gray is. Of 16 bits the upper 8 count.

    Args:
        path: The file, of any format that Pillow reads.
        channels: 1 for grayscale, 3 for color.
        box: The part to use, in the pixels that are stored, before turning: left, top, right, bottom; None for all.

    Returns:
        `(H, W, channels)`.

    Raises:
        DataError: The file is missing, damaged or not an image, or the box is outside of it.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGB", (5, 4), "white").save(file.name)
        ...     read_image(file.name, channels=1).shape
        (4, 5, 1)
    """
    from PIL import Image, ImageOps

    path = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of damaged EXIF data and such
            with Image.open(path) as image:
                part = image if box is None else image.crop(_inside(box, image.size))
                ImageOps.exif_transpose(part, in_place=True)
                pixels = np.array(_with_channels(_of_bytes(part), channels))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:  # Pillow names no end to what reading damaged files can raise
        text = f"{path} cannot be read as an image: {_reason(error, path)}. Replace or remove the file"
        raise DataError(text) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _inside(box: Box, size: tuple[int, int]) -> Box:
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} (left, top, right, bottom) holds no pixel of its {size[0]}x{size[1]}")
    return left, top, right, bottom


def _of_bytes(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        pixels = np.array(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    return image


def _with_channels(image: Image, channels: int) -> Image:
    from PIL import Image

    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception, path: str) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if os.path.getsize(path) == 0 else "it is not in an image format that Pillow knows"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
