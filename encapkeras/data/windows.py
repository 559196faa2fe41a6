"""Where the pixels of a batch come from: one tensor of all images, or image files.

Both give for each image any window of the size that a network takes, by the window's first row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from encapkeras.data import augment
from encapkeras.data.affine import AffineImages
from encapkeras.data.checks import layout_hint, listed_error
from encapkeras.data.image_files import ImageFiles
from encapkeras.data.mask_files import MaskFiles
from encapkeras.data.registry import Array
from encapkeras.data.worker_processes import in_workers
from encapkeras.errors import ArgumentError, DataError

AT_ONCE = 64  # images that a process decodes for one answer


class Windows(Protocol):
    """What batches are cut from."""

    rows: int
    """How many places there are for a window's first row."""

    columns: int
    """How many places there are for a window's first column."""

    def __len__(self) -> int: ...

    def cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        """Return windows `(B, H, W, C)`, uint8 or float32 in [0, 1], of the images `order`; arguments are `(B,)`."""


class TensorWindows:
    """Windows of images `(N, H, W, C)` in memory, uint8 or float32 in [0, 1]."""

    def __init__(self, images: Tensor, height: int, width: int) -> None:
        if images.ndim != 4 or images.shape[1] < height or images.shape[2] < width:
            raise ArgumentError(
                f"images must be (N, H, W, C), at least {height} x {width}; received {tuple(images.shape)}. "
                f"{layout_hint(images.shape)}".rstrip()
            )
        self._windows = augment.windows(images, height, width)
        self._shape = (height, width, images.shape[3])
        self.rows, self.columns = self._windows.shape[1:3]

    def __len__(self) -> int:
        return len(self._windows)

    def cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        """Return windows, as `Windows` says."""
        return torch.from_numpy(self._windows[order, tops, lefts]).view(-1, *self._shape)


@dataclass(frozen=True)
class Layout:
    """How images, resized to `size`, are laid out before windows are cut from them."""

    size: tuple[int, int]
    border: int = 0  # black pixels on each side,
    affine: AffineImages | None = None  # of images with this border
    pad: int = 0  # more of them, after that

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width with all black pixels."""
        height, width = self.size
        return height + 2 * (self.border + self.pad), width + 2 * (self.border + self.pad)

    def placed(self, images: Tensor, order: Array) -> Tensor:
        """Return images `(B, *size, C)`, whose places among all are `order`, laid out."""
        images = augment.pad(images, self.border)
        return augment.pad(self.affine(images, order) if self.affine else images, self.pad)


class FileWindows:
    """Windows of images that are decoded from their files whenever one is cut."""

    def __init__(self, files: ImageFiles, height: int, width: int, layout: Layout) -> None:
        self._files, self._height, self._width, self._layout = files, height, width, layout
        self.rows, self.columns = layout.whole[0] + 1 - height, layout.whole[1] + 1 - width

    def __len__(self) -> int:
        return len(self._files)

    def cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        """Return windows, as `Windows` says."""
        shape = (len(order), self._height, self._width, self._files.channels)
        cut = torch.empty(shape, dtype=torch.uint8)
        for place, (index, top, left) in enumerate(zip(order.tolist(), tops.tolist(), lefts.tolist(), strict=True)):
            image = augment.fit(torch.from_numpy(self._files.read(index))[None], *self._layout.size)
            placed = self._layout.placed(image, order[place : place + 1])
            cut[place] = placed[0, top : top + self._height, left : left + self._width]
        return cut

    def whole_images(self, order: Array) -> Tensor:
        """Return the images `order` where windows are as large as they."""
        return self.cut(order, np.zeros_like(order), np.zeros_like(order))


class ChosenWindows:
    """Windows of some of the images of a source, the images `indices`."""

    def __init__(self, source: Windows, indices: Array) -> None:
        self._source, self._indices = source, indices
        self.rows, self.columns = source.rows, source.columns

    def __len__(self) -> int:
        return len(self._indices)

    def cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        """Return windows, as `Windows` says."""
        return self._source.cut(self._indices[order], tops, lefts)


def decoded(files: ImageFiles, size: tuple[int, int], workers: int) -> Tensor:
    """Return all images in this height and width, `(N, H, W, C)`, uint8, decoded by `workers` processes."""
    windows = FileWindows(files, *size, Layout(size))
    images = torch.empty((len(files), *size, files.channels), dtype=torch.uint8)
    parts = _parts(len(files))
    for part, made in zip(parts, in_workers(windows.whole_images, parts, workers), strict=True):
        images[torch.from_numpy(part)] = made
    return images


class _FittedMasks:
    """Masks in this height and width, `(B, H, W)`, uint8, or what is wrong with those that cannot be read."""

    def __init__(self, masks: MaskFiles, size: tuple[int, int]) -> None:
        self._masks, self._size = masks, size

    def __call__(self, order: Array) -> tuple[Tensor, list[str]]:
        fitted, problems = torch.zeros((len(order), *self._size), dtype=torch.uint8), []
        for place, index in enumerate(order.tolist()):
            try:
                mask = torch.from_numpy(self._masks.read(index))[None, :, :, None]
            except DataError as error:
                problems.append(str(error))
            else:
                fitted[place] = augment.fit(mask, *self._size, nearest=True)[0, :, :, 0]
        return fitted, problems


def decoded_masks(masks: MaskFiles, size: tuple[int, int], dataset: str, workers: int) -> Tensor:
    """Return all masks in this height and width, `(N, H, W)`, uint8; raise `DataError` naming all that are wrong."""
    parts = _parts(len(masks))
    fitted, problems = torch.empty((len(masks), *size), dtype=torch.uint8), []
    for part, (made, wrong) in zip(parts, in_workers(_FittedMasks(masks, size), parts, workers), strict=True):
        fitted[torch.from_numpy(part)] = made
        problems += wrong
    if problems:
        raise listed_error(f"masks of data set '{dataset}' cannot be used", problems)
    return fitted


def _parts(count: int) -> list[Array]:
    """Return the numbers below a count in pieces, each for one process."""
    return np.split(np.arange(count), range(AT_ONCE, count, AT_ONCE))
