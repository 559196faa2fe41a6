"""A single image brought to the form in which a network was tested."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from encapkeras.data import augment
from encapkeras.data.checks import layout_hint
from encapkeras.data.registry import Array, DatasetInfo
from encapkeras.errors import DataError
from encapkeras.validation import shown


def prepare(image: Array, info: DatasetInfo, resize: int | None = None, border: int = 0) -> Tensor:
    """Return an image as `load` makes those of the test: resized, cut at the center, in [0, 1], not augmented.

    Args:
        image: `(H, W, C)` or `(H, W)`, uint8, or floats in [0, 1].
        info: What the network takes. Gray is repeated for three channels, colors become gray (ITU-R BT.601) for one.
        resize: `augment.resize` of the settings it was trained with; None if that is not set.
        border: `DataSettings.margin` of these settings: black pixels on each side of what the network takes.

    Returns:
        `(1, H, W, C)`, float32 in [0, 1].

    Raises:
        DataError: The array is not an image, or cannot have that many channels.

    Examples:
        >>> info = DatasetInfo(height=28, width=28, channels=1, classes=10, class_names=tuple("0123456789"))
        >>> prepare(np.zeros((60, 80, 3), dtype=np.uint8), info).shape
        torch.Size([1, 28, 28, 1])
    """
    if image.ndim not in (2, 3) or 0 in image.shape or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise DataError(
            f"an image is an array (H, W, C) or (H, W) of uint8, or of floats in [0, 1]; received {image.dtype} "
            f"{image.shape}"
        )
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):
        raise DataError(
            f"floats of an image must be in [0, 1]; these range from {shown(float(image.min()))} to "
            f"{shown(float(image.max()))}"
        )
    pixels = image if image.dtype == np.uint8 else image.astype(np.float32)
    batch = _with_channels(torch.from_numpy(np.array(pixels)).reshape(1, *image.shape[:2], -1), info.channels)
    inside = (info.height - 2 * border, info.width - 2 * border)
    whole = augment.pad(augment.fit(batch, *((resize, resize) if resize else inside)), border)
    top, left = (whole.shape[1] - info.height) // 2, (whole.shape[2] - info.width) // 2
    return augment.to_unit_range(whole[:, top : top + info.height, left : left + info.width]).contiguous()


def _with_channels(images: Tensor, channels: int) -> Tensor:
    received = images.shape[-1]
    if received == channels:
        return images
    if received == 1:
        return images.expand(-1, -1, -1, channels)
    if received == 3 and channels == 1:
        gray = augment.gray(images.float())
        return gray.round().to(torch.uint8) if images.dtype == torch.uint8 else gray
    text = f"the network takes images of {channels} channels; this one has {received}"
    raise DataError(f"{text}. {layout_hint(images.shape[1:])}".rstrip(". "))
