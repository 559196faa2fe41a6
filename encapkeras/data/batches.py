"""Batches of images for `fit`, `evaluate` and `predict`, or for a loop of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from encapkeras.data import augment
from encapkeras.data.registry import Array
from encapkeras.data.settings import AugmentSettings

# The jitters in the order in which they are applied; each draws around a centre that changes nothing.
JITTERS = {
    "brightness": (augment.brightness, 1.0),
    "contrast": (augment.contrast, 1.0),
    "saturation": (augment.saturation, 1.0),
    "hue": (augment.hue, 0.0),
}


@dataclass(frozen=True)
class EpochDraws:
    """All random choices of one epoch, so that any batch of it can be made without those before it.

    Entry k of each array belongs to the k-th image of the epoch.

    Args:
        order: `(N,)`, indices of the images.
        tops: `(N,)`, first row of the window.
        lefts: `(N,)`, first column of the window.
        mirrored: `(N,)`, bool; None if no image is mirrored.
        jitters: For each jitter in use, the strength of each image, `(N,)`, float32.
    """

    order: Array
    tops: Array
    lefts: Array
    mirrored: Tensor | None
    jitters: dict[str, Tensor]


class Batches(DataLoader[tuple[Tensor, ...]]):
    """Yields `(images, labels)`: float32 `(B, H, W, C)` in [0, 1], and int64 `(B,)`; the last batch may be smaller.

    A `DataLoader`, because `keras.Model.fit` takes one as it is; but batches are cut from one tensor of all images
    instead of being put together image by image. With a seed, order and augmentation depend on the seed and the epoch
    alone; without, images come in their own order, cut at the centre and otherwise unchanged. An epoch that was handed
    out to its last batch is followed by the next one; `set_epoch` chooses another. Keras' `fit` may look at one batch
    before it begins: where that is a whole epoch, it begins with epoch 1, unless a callback calls `set_epoch`.

    Args:
        images: `(N, H, W, C)`, uint8 or float32 in [0, 1].
        labels: `(N,)`, int64.
        height: Height of the yielded images in pixels, at most H.
        width: Their width in pixels, at most W.
        batch_size: Images in a batch.
        seed: At least 0; None: no shuffling and no augmentation.
        settings: The random changes; None for none.

    Example:
        >>> images = torch.arange(10, dtype=torch.uint8).reshape(5, 1, 2, 1)
        >>> batches = Batches(images, torch.arange(5), height=1, width=2, batch_size=2)
        >>> [labels.tolist() for _, labels in batches]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        height: int,
        width: int,
        batch_size: int,
        seed: int | None = None,
        settings: AugmentSettings | None = None,
    ) -> None:
        super().__init__(TensorDataset(images, labels), batch_size=batch_size)
        self.labels = labels
        self.seed = seed
        self.settings = settings or AugmentSettings()
        self.epoch = 0
        self.skipped = 0
        self._shape = (height, width, images.shape[3])
        self._windows = augment.windows(images, height, width)
        self._draws: tuple[int, EpochDraws] | None = None

    @property
    def num_images(self) -> int:
        """Number of images in an epoch."""
        return len(self.labels)

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Chooses what the next iteration yields.

        Args:
            epoch: From 0.
            skipped: How many batches at its start will not be looked at, since an earlier process trained on them: the
                first of the others stands in their places, so that nothing is made in vain.
        """
        self.epoch, self.skipped = epoch, skipped

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        """The batches of the epoch that is current when the first of them is asked for."""
        epoch, count = self.epoch, len(self)
        first = min(self.skipped, count - 1)
        self.skipped = 0
        if first:
            yield from itertools.repeat(self.batch(first, epoch), first)
        for index in range(first, count):
            batch = self.batch(index, epoch)
            if index == count - 1:
                # Before the last yield: Keras takes that batch and never resumes this generator.
                self.epoch = epoch + 1
            yield batch

    def batch(self, index: int, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """One batch of an epoch, made without the others.

        Args:
            index: From 0 to `len(self) - 1`.
            epoch: From 0; None: the current one.

        Returns:
            Images float32 `(B, H, W, C)` in [0, 1] and labels int64 `(B,)`.

        Raises:
            IndexError: There is no such batch.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no batch {index}: an epoch has {len(self)}")
        draws = self._draws_of(self.epoch if epoch is None else epoch)
        size = self.batch_size or self.num_images
        part = slice(index * size, (index + 1) * size)
        order = draws.order[part]
        images = self._cut(order, draws.tops[part], draws.lefts[part])
        if draws.mirrored is not None:
            images = augment.mirror(images, draws.mirrored[part])
        images = augment.to_unit_range(images)
        for name, strengths in draws.jitters.items():
            images = JITTERS[name][0](images, strengths[part])
        return images, self.labels[torch.from_numpy(order)]

    def images_as_uint8(self, count: int | None = None) -> Tensor:
        """The first images in their own order, cut at the centre, not augmented, for pictures.

        Args:
            count: How many; None for all.

        Returns:
            `(count, H, W, C)`, uint8.
        """
        order = np.arange(self.num_images)[:count]
        images = self._cut(order, *self._centre(len(order)))
        return images if images.dtype == torch.uint8 else (images * 255).round_().to(torch.uint8)

    def _cut(self, order: Array, tops: Array, lefts: Array) -> Tensor:
        return torch.from_numpy(self._windows[order, tops, lefts]).view(-1, *self._shape)

    def _centre(self, count: int) -> tuple[Array, Array]:
        rows, columns = self._windows.shape[1:3]
        return np.full(count, (rows - 1) // 2), np.full(count, (columns - 1) // 2)

    def _draws_of(self, epoch: int) -> EpochDraws:
        """The draws of an epoch; those of the latest are kept."""
        if self._draws is None or (self.seed is not None and self._draws[0] != epoch):
            self._draws = (epoch, self._draw(epoch))
        return self._draws[1]

    def _draw(self, epoch: int) -> EpochDraws:
        """Everything is drawn, wanted or not, so that switching one change on leaves the draws of the others alone."""
        count = self.num_images
        if self.seed is None:
            return EpochDraws(np.arange(count), *self._centre(count), None, {})
        random = np.random.default_rng([self.seed, 1 + epoch])
        rows, columns = self._windows.shape[1:3]
        order = random.permutation(count)
        tops, lefts = random.integers(rows, size=count), random.integers(columns, size=count)
        mirrored = torch.from_numpy(random.random(count) < 0.5)
        jitters = {}
        for name, (_, centre) in JITTERS.items():
            strength = getattr(self.settings, name)
            factors = centre + strength * (2 * random.random(count, dtype=np.float32) - 1)
            if strength > 0:
                jitters[name] = torch.from_numpy(factors.astype(np.float32))
        if not self.settings.crop:
            tops, lefts = self._centre(count)
        return EpochDraws(order, tops, lefts, mirrored if self.settings.mirror else None, jitters)
