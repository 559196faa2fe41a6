"""Changes of whole batches of images, as tensors `(B, H, W, C)`.

B images, H height, W width, C channels. Functions on floats take and return values in [0, 1]; each image has its own
strength, given as a tensor `(B,)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from encapkeras.data.registry import Array

# The share of red, green and blue in what the eye sees as gray (ITU-R BT.601).
GRAY_WEIGHTS = (0.299, 0.587, 0.114)


def resize(images: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """Return uint8 or float images in another size; the same tensor if none is needed.

    Bilinear with antialiasing; masks, whose values cannot be mixed, with the `nearest` pixel.
    """
    if tuple(images.shape[1:3]) == (height, width):
        return images
    kind: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
    planes = torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2), (height, width), **({"mode": "nearest-exact"} if nearest else kind)
    )
    return planes.permute(0, 2, 3, 1).contiguous()


def fit(images: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """Return images in another size, undistorted: the largest part of the new proportions, from the center, resized."""
    rows, columns = images.shape[1:3]
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return resize(
        images[:, top : top + kept_rows, left : left + kept_columns].contiguous(), height, width, nearest=nearest
    )


def pad(images: Tensor, pixels: int) -> Tensor:
    """Return images with this many black pixels added on each side."""
    return torch.nn.functional.pad(images, (0, 0, pixels, pixels, pixels, pixels)) if pixels else images


def windows(images: Tensor, height: int, width: int) -> Array:
    """View every window, `(N, H - height + 1, W - width + 1, height, width * C)`: NumPy copies rows fast."""
    channels = images.shape[3]
    rows = images.numpy().reshape(len(images), images.shape[1], -1)
    return np.lib.stride_tricks.sliding_window_view(rows, (height, width * channels), axis=(1, 2))[:, :, ::channels]


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Return the images, the chosen ones (`(B,)`, bool) mirrored left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def warp(images: Tensor, back: Tensor, offset: Tensor) -> Tensor:
    """Return float images whose pixel at p has the value of the given one at `back p + offset`, bilinear, 0 outside.

    Coordinates are in pixels from the middle of the image, x to the right and y down. What an image becomes does not
    depend on the others, to the bit.

    Args:
        images: `(B, H, W, C)`.
        back: `(B, 2, 2)`, float64.
        offset: `(B, 2)`, float64.
    """
    height, width = images.shape[1:3]
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2)[:, None]
    axes = zip(back.unbind(1), offset.unbind(1), (width, height), strict=True)
    places = [
        (_map(row[:, 0]) * x + _map(row[:, 1]) * y + _map(moved)) * (2 / length) for row, moved, length in axes
    ]  # from -1 to 1, the outer edges of the first and last pixel
    grid = torch.stack(places, dim=-1).to(images)
    moved = torch.nn.functional.grid_sample(
        images.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.permute(0, 2, 3, 1)


def _map(numbers: Tensor) -> Tensor:
    return numbers[:, None, None]


def to_unit_range(images: Tensor) -> Tensor:
    """Return float32 images in [0, 1] from uint8 ones; float images as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return pixels times the factor, clipped to [0, 1]."""
    return (images * _each(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return `mean + factor (x - mean)` with the mean gray of each image, clipped to [0, 1]."""
    mean = gray(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, _each(factor)).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return `gray + factor (x - gray)` with the gray of each pixel, clipped to [0, 1]."""
    return torch.lerp(gray(images), images, _each(factor)).clamp_(0, 1)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Return every color turned on the color circle by full turns; value v and chroma c stay.

    With hue h in sixths of a turn, channel n of (5, 3, 1) is `v - c clip(min(k, 4 - k), 0, 1)`, `k = (n + h) mod 6`.
    """
    red, green, blue = images.permute(3, 0, 1, 2).contiguous()  # whole planes: faster than pixels of three
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # A gray pixel has no hue: any will do, since its chroma of 0 takes it out again.
    unit = torch.where(chroma > 0, chroma, 1)
    from_green, from_blue = 2 + (blue - red) / unit, 4 + (red - green) / unit
    sixths = torch.where(value == red, (green - blue) / unit, torch.where(value == green, from_green, from_blue))
    sixths = sixths + 6 * turn[:, None, None]
    turned = []
    for channel in (5, 3, 1):
        k = (sixths + channel).remainder_(6)
        share = torch.minimum(k, 4 - k).clamp_(0, 1)
        turned.append(torch.addcmul(value, chroma, share, value=-1).clamp_(0, 1))
    return torch.stack(turned, dim=-1)


def cutout(images: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Return images with a square each, centered at `rows`, `columns` `(B,)`, in the image's own mean color."""

    def covered(length: int, centers: Tensor) -> Tensor:
        from_start = torch.arange(length) - (centers[:, None] - side // 2)
        return (from_start >= 0) & (from_start < side)

    inside = covered(images.shape[1], rows)[:, :, None, None] & covered(images.shape[2], columns)[:, None, :, None]
    return torch.where(inside, images.mean(dim=(1, 2), keepdim=True), images)


def gray(images: Tensor) -> Tensor:
    """Return the gray of each pixel, `(B, H, W, 1)`: weighted for three channels, else the mean of all channels."""
    if images.shape[-1] == 3:
        return (images @ images.new_tensor(GRAY_WEIGHTS))[..., None]
    return images.mean(dim=-1, keepdim=True)


def _each(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
