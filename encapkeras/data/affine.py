"""Images changed by an affine map each, always the same one: `data.affine`.

The map depends on the seed in the settings, the part, and the image's number in the data set; on nothing else.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from encapkeras.data import augment
from encapkeras.data.registry import Array
from encapkeras.data.settings import AffineSettings

DataPart = Literal["training", "validation", "test"]
STREAMS: dict[DataPart, int] = {"training": 0, "validation": 1, "test": 2}
AT_ONCE = 256  # images


class AffineImages:
    """The maps of some images of a part of a data set.

    A point p, from the middle of the canvas with x to the right and y down, goes to
    `R [[1, k], [0, 1]] diag(a, b) p + t`: scaled, sheared, turned counter-clockwise, moved.

    Args:
        settings: The ranges.
        part: Which part they are of: each has maps of its own.
        numbers: `(N,)`: the images' numbers in that part of the data set, as read.
        canvas: Height and width.
    """

    def __init__(self, settings: AffineSettings, part: DataPart, numbers: Array, canvas: tuple[int, int]) -> None:
        random = np.random.default_rng([settings.seed, STREAMS[part]])
        drawn = 2 * random.random((int(numbers.max(initial=-1)) + 1, 6))[numbers] - 1
        angle, shear = np.radians(settings.rotation * drawn[:, 0]), settings.shear * drawn[:, 1]
        across, along = 1 + settings.scale * drawn[:, 2], 1 + settings.scale * drawn[:, 3]
        moved = drawn[:, 4:] * (min(canvas) // 5 if settings.shift is None else settings.shift)
        cos, sin = np.cos(angle), np.sin(angle)
        rows = [(cos + shear * -sin) / across, (-sin - shear * cos) / across, sin / along, cos / along]
        self._back = np.stack(rows, axis=1).reshape(-1, 2, 2)
        self._offset = -np.einsum("nij,nj->ni", self._back, moved)

    def __call__(self, images: Tensor, order: Array) -> Tensor:
        """Return images `(B, H, W, C)` on their canvas, changed; `order` `(B,)` has their places in `numbers`."""
        changed = torch.empty_like(images)
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            back, offset = (torch.from_numpy(each[order[part]]) for each in (self._back, self._offset))
            moved = augment.warp(images[part].to(torch.float32), back, offset)
            changed[part] = moved.round_() if images.dtype == torch.uint8 else moved
        return changed
