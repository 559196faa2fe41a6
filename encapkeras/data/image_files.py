"""Image files of every common format, as arrays of bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encapkeras.data.object_boxes import Box, read_box
from encapkeras.errors import DataError
from encapkeras.files import open_regular, reading

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow starts a program for some of the others
LARGEST = 64_000_000  # pixels
AT_ONCE = 2**22  # pixels that are converted at once, so that a large image is in memory only once


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
    asked for, and color becomes gray (ITU-R BT.601) where gray is. Of 12 or 16 bits the upper 8 count. A JPEG file of
    more than 64 million pixels is decoded at half its size.

    Args:
        path: The file: JPEG, PNG, BMP, GIF, WebP, TIFF, PPM, PGM or PBM.
        channels: 1 for grayscale, 3 for color.
        box: The part to use, in the pixels that are stored, before turning: left, top, right, bottom; None for all.

    Returns:
        `(H, W, channels)`.

    Raises:
        DataError: The file is missing, damaged or not an image; it has more than 64 million pixels, or they are
            floating-point numbers, or integers with a sign or of more than 16 bits; or the box is outside of it.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGB", (5, 4), "white").save(file.name)
        ...     read_image(file.name, channels=1).shape
        (4, 5, 1)
    """
    from PIL import ImageOps

    path = os.fspath(path)
    with reading(path, "an image", DataError, "Replace or remove the file"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of damaged EXIF data and such
        with opened(path) as image:
            declared = _declared(image)
            bound_pixels(image, halved=box is None)
            part = image if box is None else image.crop(_inside(box, image.size))
            ImageOps.exif_transpose(part, in_place=True)
            return _pixels(part, channels, *declared)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of the image in a file, upright as `read_image` gives it; no pixel is decoded."""
    from PIL import ExifTags

    path = os.fspath(path)
    with reading(path, "an image", DataError, "Replace or remove the file"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        with opened(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            return (width, height) if turned else (height, width)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Image]:
    """Open an image file of one of the `FORMATS` with Pillow; a `ValueError` says why it cannot be."""
    from PIL import Image, UnidentifiedImageError

    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    with file:
        start = file.read(2)
        file.seek(0)
        try:
            if start == b"\x89P":  # PNG: when pixels are read, nothing looks at their checksum
                Image.open(file, formats=["PNG"]).verify()
                file.seek(0)
            with _STDERR_CLOSED if start in (b"II", b"MM") else contextlib.nullcontext():  # TIFF
                with Image.open(file, formats=FORMATS) as image:
                    yield image
        except UnidentifiedImageError as error:
            reason = f"it is not in an image format that is read: {', '.join(FORMATS)}" if start else "it is empty"
            raise ValueError(reason) from error
        except MemoryError as error:
            raise ValueError("there is not enough memory for what it declares to hold") from error


class _StderrClosed:
    """Keeps off the terminal what libtiff prints about damage, apart from the error that it reports.

    Threads share stderr: the first that enters closes it, and the last that leaves opens it again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: int | None = None  # a copy of stderr; None if there is no need to open it again
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._in_child
            )

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nothing:  # it may be closed already
                self._kept = os.dup(2)
                os.dup2(nothing.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._open()

    def _in_child(self) -> None:  # where the other threads do not go on
        self._inside = 0
        self._open()
        self._lock.release()

    def _open(self) -> None:
        if self._kept is not None:
            os.dup2(self._kept, 2)
            os.close(self._kept)
            self._kept = None


_STDERR_CLOSED = _StderrClosed()


def _declared(image: Image) -> tuple[int, bool]:
    """Return how many bits a gray value has, and whether 0 is white; refuse those of which no 8 are the upper ones."""
    from PIL import TiffImagePlugin

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16, False
    tags = image.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    if signed or bits > 16:
        kind = " with a sign" if signed else ""
        raise ValueError(f"its pixels are {bits}-bit integers{kind}; save it with 8 or 16 bits without sign")
    return bits, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0


def bound_pixels(image: Image, halved: bool) -> None:
    """Refuse an image of too many pixels, unless it can be decoded at half its size."""
    width, height = image.size
    if halved and width * height > LARGEST:
        image.draft(None, (width // 2, height // 2))  # does nothing but to a JPEG file
    if not 0 < image.width * image.height <= LARGEST:
        raise ValueError(f"it has {width} x {height} pixels; from 1 to {LARGEST:,} are read. Save it smaller")


def _inside(box: Box, size: tuple[int, int]) -> Box:
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} (left, top, right, bottom) holds no pixel of its {size[0]}x{size[1]}")
    return left, top, right, bottom


def _pixels(image: Image, channels: int, bits: int, zero_is_white: bool) -> npt.NDArray[np.uint8]:
    width, height = image.size
    rows = max(1, AT_ONCE // width)
    pixels = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, rows):
        band = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        converted = np.asarray(_with_channels(_of_bytes(band, bits, zero_is_white), channels))
        pixels[top : top + rows] = converted.reshape(-1, width, channels)
    return pixels


def _of_bytes(image: Image, bits: int, zero_is_white: bool) -> Image:
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    upper = (np.asarray(image) >> (bits - 8)).astype(np.uint8)  # Pillow leaves values of more than 8 bits as they are
    return Image.fromarray(255 - upper if zero_is_white else upper)


def _with_channels(image: Image, channels: int) -> Image:
    from PIL import Image

    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
