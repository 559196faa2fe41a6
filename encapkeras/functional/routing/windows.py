"""Windows: which children of a map each parent has.

A parent at `(h', w')` has the children under a kernel that moves over the map, at row `strides * h' + y - padding` for
the window offset y, and columns likewise. Children outside the map do not exist.

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, O window offsets; R = P * Q * O
places in windows, S = H * W children of a type, L windows of a child.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError
from encapkeras.functional.torch_support.numbers_on import made_on


@dataclass(frozen=True)
class Windows:
    """A kernel that moves over a map.

    Args:
        kernel_size: Height and width of the kernel.
        strides: Step of the kernel, in rows and in columns.
        padding: Rows and columns of nothing on each of the four sides.
    """

    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the parents' map; raise `ShapeError` if the kernel is larger than the map."""
        sizes = []
        for size, kernel, stride, padding in zip(
            (height, width), self.kernel_size, self.strides, self.padding, strict=True
        ):
            if size + 2 * padding < kernel:
                raise ShapeError(
                    f"a window of {self.kernel_size[0]} x {self.kernel_size[1]} does not fit a map of {height} x "
                    f"{width} with padding {self.padding[0]}, {self.padding[1]}"
                )
            sizes.append((size + 2 * padding - kernel) // stride + 1)
        return sizes[0], sizes[1]

    @property
    def count(self) -> int:
        """Number of offsets in the window."""
        return self.kernel_size[0] * self.kernel_size[1]

    def overlap(self, size: tuple[int, int]) -> bool:
        """Return whether a child may be in several windows, of a map of parents of that size."""
        axes = zip(self.kernel_size, self.strides, size, strict=True)
        return any(kernel > stride and count > 1 for kernel, stride, count in axes)

    def offsets(self) -> Iterator[tuple[int, int]]:
        """Yield the window's offsets `(y, x)`, by rows."""
        height, width = self.kernel_size
        return ((y, x) for y in range(height) for x in range(width))

    def at(self, offset: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of a padded map that parents of a map of that size have at an offset."""
        rows, columns = (
            slice(start, start + stride * (count - 1) + 1, stride)
            for start, stride, count in zip(offset, self.strides, size, strict=True)
        )
        return rows, columns

    def sums(self, map_BHWN: torch.Tensor) -> torch.Tensor:
        """Return the sums `(B, P, Q, ...)` of the children in each window of a map `(B, H, W, ...)`."""
        padded, size = self.pad(map_BHWN), self.output_size(*map_BHWN.shape[1:3])
        if self.kernel_size == padded.shape[1:3]:
            return padded.sum((1, 2), keepdim=True)
        total_BPQN, *rest = (padded[:, *self.at(offset, size)] for offset in self.offsets())
        for part_BPQN in rest:
            total_BPQN = total_BPQN + part_BPQN
        return total_BPQN

    def pad(self, map_BHWN: torch.Tensor) -> torch.Tensor:
        """Surround a map `(B, H, W, ...)` with zeros."""
        vertical, horizontal = self.padding
        if not (vertical or horizontal):
            return map_BHWN
        unpadded = [0, 0] * (map_BHWN.dim() - 3)
        return F.pad(map_BHWN, [*unpadded, horizontal, horizontal, vertical, vertical])

    def unfold(self, padded_BHWN: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return the children of each parent of a map of that size, `(B, P, Q, I, ...)`, of a padded map."""
        if self.kernel_size == padded_BHWN.shape[1:3]:
            return padded_BHWN.flatten(1, 3)[:, None, None]
        return torch.cat([padded_BHWN[:, *self.at(offset, size)] for offset in self.offsets()], 3)


def fold_logsumexp(value_BPQON: torch.Tensor, windows: Windows, height: int, width: int) -> torch.Tensor:
    """Return `(B, H, W, N)`: of each child of a map, the log of the sum of exponentials over all windows that hold it.

    Children that no window holds get 0.
    """
    value_BRN = value_BPQON.flatten(1, 3)
    padded_BRN = F.pad(value_BRN, (0, 0, 0, 1), value=torch.finfo(value_BRN.dtype).min)
    size = (value_BPQON.shape[1], value_BPQON.shape[2])
    place_SL = made_on(value_BRN, _places_of_children, windows, height, width, size)
    total_BSN = padded_BRN[:, place_SL].logsumexp(2)
    held_S1 = place_SL[:, :1] < value_BRN.shape[1]
    folded: torch.Tensor = torch.where(held_S1, total_BSN, 0).unflatten(1, (height, width))
    return folded


def _places_of_children(windows: Windows, height: int, width: int, size: tuple[int, int]) -> torch.Tensor:
    """Return where each child is among all windows, `(S, L)` for at most L windows; one past the end for nowhere."""
    top, left = windows.padding
    padded = np.arange((height + 2 * top) * (width + 2 * left)).reshape(height + 2 * top, width + 2 * left)
    child_R = np.stack([padded[windows.at(offset, size)] for offset in windows.offsets()], 2).ravel()
    by_child_R = np.argsort(child_R, kind="stable")
    counts = np.bincount(child_R, minlength=padded.size)
    starts = np.cumsum(counts) - counts
    rank_R = np.arange(len(child_R)) - np.repeat(starts, counts)
    places = np.full((padded.size, counts.max()), len(child_R))
    places[child_R[by_child_R], rank_R] = by_child_R
    on_map = padded[top : top + height, left : left + width].ravel()
    return torch.from_numpy(places[on_map])
