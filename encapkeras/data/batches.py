"""Batches of images for `fit`, `evaluate` and `predict`, or for a loop of one's own."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from encapkeras.data import augment
from encapkeras.data.overlap import PairWindows, both_classes, draw_pairs, fixed_pairs, merged
from encapkeras.data.registry import Array
from encapkeras.data.settings import AugmentSettings
from encapkeras.data.windows import ChosenWindows, TensorWindows, Windows
from encapkeras.data.worker_processes import in_workers
from encapkeras.errors import ArgumentError
from encapkeras.functional.torch_support.shared_batch import part_of_batch

# The jitters in the order in which they are applied; each draws around a center that changes nothing.
JITTERS = {
    "brightness": (augment.brightness, 1.0),
    "contrast": (augment.contrast, 1.0),
    "saturation": (augment.saturation, 1.0),
    "hue": (augment.hue, 0.0),
}


# All random choices for some images, so that any batch can be made without those before it, in any process. Entry k of
# each array belongs to the k-th image: `order` is its index, `tops` and `lefts` the first row and column of its window.
# What is not wanted is not there: `mirrored`, bool; a strength by the name of each jitter; `cutout`, `(N, 2)`, row and
# column of the square's center; `partners`, the image that each is merged with, and its place as `partner_tops` and
# `partner_lefts`.
Draws = dict[str, Array]


def _part(draws: Draws, start: int, end: int | None) -> Draws:
    return {name: choices[start:end] for name, choices in draws.items()}


def balanced_draws(labels: Array, random: np.random.Generator) -> Array:
    """Draw as many indices of labels `(N,)` as there are, of each class equally many but for one more or less.

    An image comes again only when all others of its class have come.
    """
    names = np.unique(labels)
    one_more = random.permutation(np.arange(len(names)) < len(labels) % len(names))
    drawn = []
    for name, more in zip(names, one_more.tolist(), strict=True):
        number = len(labels) // len(names) + more
        own = np.flatnonzero(labels == name)
        drawn.append(np.concatenate([random.permutation(own) for _ in range(-(-number // len(own)))])[:number])
    return random.permutation(np.concatenate(drawn))


@dataclass(frozen=True)
class BatchMaker:
    """Makes a batch from the draws for its images, and from nothing else; squares have the side `cutout` in pixels.

    With less than 3 `axes` samples have no height, as sequences, or no width either.
    """

    windows: Windows
    labels: Tensor
    cutout: int
    axes: int = 3
    classes: int = 0  # of all images, where two make one
    masks: Windows | None = None  # in the places of those of the images

    def __call__(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return images float32 `(B, H, W, C)` in [0, 1], and labels: int64 `(B,)`, of pairs `(B, K)`, or masks."""
        images = self.cut(draws)
        if "mirrored" in draws:
            images = augment.mirror(images, torch.from_numpy(draws["mirrored"]))
        images = augment.to_unit_range(images)
        for name, (change, _) in JITTERS.items():
            if name in draws:
                images = change(images, torch.from_numpy(draws[name]))
        if "cutout" in draws:
            rows, columns = torch.from_numpy(draws["cutout"]).T
            images = augment.cutout(images, rows, columns, self.cutout)
        return images.flatten(0, 3 - self.axes), self.labels_of(draws)

    def cut(self, draws: Draws) -> Tensor:
        """Return the windows `(B, H, W, C)`, uint8 or float32, of images or pairs, without other changes."""
        if "partners" in draws:
            return merged(self.windows, draws)
        return self.windows.cut(draws["order"], draws["tops"], draws["lefts"])

    def labels_of(self, draws: Draws) -> Tensor:
        """Return the labels of a batch."""
        if "partners" in draws:
            return both_classes(self.labels, draws, self.classes)
        if self.masks is not None:
            masks = self.masks.cut(draws["order"], draws["tops"], draws["lefts"])
            if "mirrored" in draws:
                masks = augment.mirror(masks, torch.from_numpy(draws["mirrored"]))
            return masks[..., 0].long()
        return self.labels[torch.from_numpy(draws["order"])]


class Batches(DataLoader[tuple[Tensor, ...]]):
    """Batches `(images, labels)`: float32 `(B, H, W, C)` in [0, 1], and labels as given; the last may be smaller.

    Labels may be masks, the class of each pixel: they are cut and mirrored as their images, into int64 `(B, H, W)`.

    A `DataLoader`, because `keras.Model.fit` takes one as it is; but batches are cut from one tensor of all images, or
    made from image files in separate processes. With a seed, order and augmentation depend on the seed and the
    epoch alone; without, images come in their own order, cut at the center and otherwise unchanged. After the last
    batch of an epoch follows the next epoch; `set_epoch` chooses another. Keras' `fit` may look at one batch before it
    begins: where that is a whole epoch, it begins with epoch 1, unless a callback calls `set_epoch`.

    Args:
        images: `(N, H, W, C)`, uint8 or float32 in [0, 1]; or a source of windows of the size to be cut.
        labels: `(N,)`, int64; `(N, K)`, float32, 1 for each label of an image; or masks `(N, H, W)`, uint8, as large as
            the images.
        height: Height of the yielded images in pixels, at most H.
        width: Their width in pixels, at most W.
        batch_size: Images in a batch.
        seed: At least 0; None: no shuffling and no augmentation.
        settings: The random changes; None for none.
        workers: How many processes make batches ahead; 0 for none.
        axes: Of a yielded sample: 3 of an image, 2 of a sequence, which is an image of height 1 without that axis, 1 of
            a vector, without width too.
        balance: Whether each epoch with a seed draws equally many images of each class, one more or less. Images of a
            class come again where it has fewer.
        overlap_classes: The number of classes K, if each image is to be merged with one of another class, both shifted:
            labels are then `(B, K)`, float32, 1 for both classes. Pairs are drawn anew in each epoch; without a seed
            they are always the same. None: images stay alone.

    Raises:
        ArgumentError: Masks are not as large as their images; or `balance` is true, and images do not have one class
            each.

    Examples:
        >>> images = torch.arange(10, dtype=torch.uint8).reshape(5, 1, 2, 1)
        >>> batches = Batches(images, torch.arange(5), height=1, width=2, batch_size=2)
        >>> [labels.tolist() for _, labels in batches]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        images: Tensor | Windows,
        labels: Tensor,
        *,
        height: int,
        width: int,
        batch_size: int,
        seed: int | None = None,
        settings: AugmentSettings | None = None,
        workers: int = 0,
        axes: int = 3,
        overlap_classes: int | None = None,
        balance: bool = False,
    ) -> None:
        super().__init__(TensorDataset(labels), batch_size=batch_size)  # says to Keras how many images there are
        self.labels = labels
        self.seed = seed
        self.settings = settings or AugmentSettings()
        self.workers = workers
        self.epoch = 0
        self.skipped = 0
        self._process, self._processes = 0, 1
        self._size = (height, width)
        self._windows = TensorWindows(images, height, width) if isinstance(images, Tensor) else images
        masks = TensorWindows(labels[..., None], height, width) if labels.dim() == 3 else None
        if masks and (masks.rows, masks.columns) != (self._windows.rows, self._windows.columns):
            raise ArgumentError(f"masks must be as large as their images; received masks {tuple(labels.shape)}")
        self._make = BatchMaker(self._windows, labels, self.settings.cutout, axes, overlap_classes or 0, masks)
        self._draws: tuple[int, Draws] | None = None
        self._balance = balance
        self._class_weights: Tensor | None = None
        self._pairs = None if overlap_classes is None else fixed_pairs(labels.numpy())
        if self._pairs is not None:
            self.labels = self._make.labels_of({"order": np.arange(len(labels)), **self._pairs})
        if balance:
            _ = self.classes  # refuses several labels, and masks

    @property
    def num_images(self) -> int:
        """Number of images in an epoch."""
        return len(self.labels)

    @property
    def classes(self) -> Tensor:
        """The class of each image, `(N,)`: the labels; an `ArgumentError` if they are not one whole number each."""
        if self.labels.dim() != 1 or self.labels.is_floating_point():
            raise ArgumentError(
                "an accuracy or a choice that is balanced over the classes needs one class for each image: labels "
                f"(N,), whole numbers; received {str(self.labels.dtype).removeprefix('torch.')} of shape "
                f"{tuple(self.labels.shape)}. With data.overlap, each image has two: load the images without it; with "
                "masks, each pixel has one, and with several labels, an image has any number"
            )
        return self.labels

    @property
    def _step(self) -> int:
        """Images in all batches but the last."""
        return self.batch_size or self.num_images

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: From 0.
            skipped: How many batches at its start nobody will look at, since an earlier process trained on them: the
                first of the others is yielded in their places, so that none is made for nothing.
        """
        self.epoch, self.skipped = epoch, skipped

    def only_part(self, process: int, processes: int) -> Batches:
        """Return the same batches for one of several processes, which makes only its own part of each.

        Batches keep their size and their labels; the images of the other parts are black, so that none is decoded or
        augmented for nothing. Batches of fewer images than processes are whole.

        Args:
            process: Its number, from 0.
            processes: How many there are.

        Examples:
            >>> images = torch.ones(6, 1, 1, 1)
            >>> batches = Batches(images, torch.arange(6), height=1, width=1, batch_size=4)
            >>> [(batch.flatten().tolist(), labels.tolist()) for batch, labels in batches.only_part(1, processes=2)]
            [([0.0, 0.0, 1.0, 1.0], [0, 1, 2, 3]), ([0.0, 1.0], [4, 5])]
        """
        part = copy.copy(self)
        part._process, part._processes = process, processes
        return part

    def weighted(self, class_weights: Tensor) -> Batches:
        """Return the same batches with a third tensor `(B,)`, what the loss of each image is multiplied by.

        Args:
            class_weights: Those of images of each class, `(K,)`.

        Raises:
            ArgumentError: The images have several labels.

        Examples:
            >>> batches = Batches(torch.ones(2, 1, 1, 1), torch.tensor([0, 1]), height=1, width=1, batch_size=2)
            >>> [weights.tolist() for _, _, weights in batches.weighted(torch.tensor([0.5, 2.0]))]
            [[0.5, 2.0]]
        """
        _ = self.classes  # refuses several labels
        weighted = copy.copy(self)
        weighted._class_weights = class_weights
        return weighted

    def unchanged(self) -> Batches:
        """Return the same images in their own order, cut at the center, not augmented."""
        return self.take(np.arange(self.num_images))

    def take(self, indices: Array) -> Batches:
        """Return the images at these indices `(M,)`, in this order, cut at the center, not augmented."""
        height, width = self._size
        source = self._windows if self._pairs is None else PairWindows(self._windows, self._pairs)
        return Batches(
            ChosenWindows(source, indices),
            self.labels[torch.from_numpy(indices)],
            height=height,
            width=width,
            batch_size=self._step,
            workers=self.workers,
            axes=self._make.axes,
        )

    def corner_crops(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the images in their own order, each cut at its four corners and its center, otherwise unchanged.

        Yields:
            For each batch its images cut top left, top right, bottom left, bottom right and at the center, each as
            `batch` returns them; and the labels.

        Raises:
            ArgumentError: The images are no larger than what is cut from them.
            DataError: An image file is missing or damaged.
        """
        bottom, right = self._windows.rows - 1, self._windows.columns - 1
        if self._pairs is not None:
            raise ArgumentError("images that data.overlap merges have no corners to crop: their places are shifts")
        if not bottom and not right:
            given = "x".join(map(str, self._size))
            raise ArgumentError(
                f"the images are {given}, the input size of the network, so there are no corners to crop; set "
                f"data.augment.resize to a larger size, for example {self._size[0] + 2}"
            )
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        orders = np.split(np.arange(self.num_images), range(self._step, self.num_images, self._step))
        draws = [
            {"order": order, "tops": np.full(len(order), top), "lefts": np.full(len(order), left)}
            for order in orders
            for top, left in places
        ]
        with contextlib.closing(in_workers(self._make, draws, self.workers)) as made:
            while crops := list(itertools.islice(made, len(places))):
                yield [images for images, _ in crops], crops[0][1]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:  # type: ignore[override]
        """Yield the batches of the epoch that is current when the first of them is asked for."""
        epoch, count = self.epoch, len(self)
        first = min(self.skipped, count - 1)
        self.skipped = 0
        draws = [self._draws_for(index, epoch) for index in range(first, count)]
        own = [part_of_batch(len(each["order"]), self._process, self._processes) for each in draws]
        parts = [_part(each, part.start, part.stop) for each, part in zip(draws, own, strict=True)]
        with contextlib.closing(in_workers(self._make, parts, self.workers)) as made:
            for index, (whole, part, batch) in enumerate(zip(draws, own, made, strict=True), first):
                batch = self._completed(batch, whole, part)
                if index == first:
                    yield from itertools.repeat(self._weighted(batch), first)
                if index == count - 1:
                    # Before the last yield: Keras takes that batch and never resumes this generator.
                    self.epoch = epoch + 1
                yield self._weighted(batch)

    def _weighted(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Add the weight of each image, if classes have weights."""
        return batch if self._class_weights is None else (*batch, self._class_weights[batch[1]])

    def _completed(self, made: tuple[Tensor, Tensor], whole: Draws, part: slice) -> tuple[Tensor, Tensor]:
        """Return a batch in its whole size, of which only a part was made."""
        images, labels = made
        if len(labels) == len(whole["order"]):
            return made
        padded = images.new_zeros(len(whole["order"]), *images.shape[1:])
        padded[part] = images
        return padded, self._make.labels_of(whole)

    def batch(self, index: int, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one batch, images and labels, of an epoch (None: the current one), made without the others.

        Raises:
            IndexError: There is no such batch; they are numbered from 0.
            DataError: An image file is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no batch {index}: an epoch has {len(self)}")
        return self._make(self._draws_for(index, self.epoch if epoch is None else epoch))

    def images_as_uint8(self, count: int | None = None) -> Tensor:
        """Return the first images (None: all) in their own order, cut at the center, not augmented, for pictures.

        Returns:
            `(count, H, W, C)`, uint8.

        Raises:
            DataError: An image file is missing or damaged.
        """
        images = self._make.cut(_part(self._unchanged_draws(), 0, count))
        return images if images.dtype == torch.uint8 else (images * 255).round_().to(torch.uint8)

    def _center(self, count: int) -> Draws:
        top, left = (self._windows.rows - 1) // 2, (self._windows.columns - 1) // 2
        return {"order": np.arange(count), "tops": np.full(count, top), "lefts": np.full(count, left)}

    def _unchanged_draws(self) -> Draws:
        return self._center(self.num_images) | (self._pairs or {})

    def _draws_for(self, index: int, epoch: int) -> Draws:
        """Return the draws for a batch; those of the latest epoch are kept."""
        if self._draws is None or (self.seed is not None and self._draws[0] != epoch):
            self._draws = (epoch, self._draw(epoch))
        return _part(self._draws[1], index * self._step, (index + 1) * self._step)

    def _draw(self, epoch: int) -> Draws:
        """Draw everything, wanted or not, so that switching one change on leaves the draws of the others alone."""
        if self.seed is None:
            return self._unchanged_draws()
        count = self.num_images
        draws = self._center(count)
        random = np.random.default_rng([self.seed, 1 + epoch])
        draws["order"] = random.permutation(count)
        if self._balance:
            draws["order"] = balanced_draws(self.classes.numpy(), np.random.default_rng([self.seed, 1 + epoch, 1]))
        tops, lefts = (random.integers(places, size=count) for places in (self._windows.rows, self._windows.columns))
        if self.settings.crop:
            draws |= {"tops": tops, "lefts": lefts}
        mirrored = random.random(count) < 0.5
        if self.settings.mirror:
            draws["mirrored"] = mirrored
        for name, (_, center) in JITTERS.items():
            strength = getattr(self.settings, name)
            factors = center + strength * (2 * random.random(count, dtype=np.float32) - 1)
            if strength > 0:
                draws[name] = factors.astype(np.float32)
        squares = random.integers(self._size, size=(count, 2))
        if self.settings.cutout:
            draws["cutout"] = squares
        if self._pairs is not None:
            pairs = draw_pairs(self._make.labels.numpy(), random)
            draws |= {name: each[draws["order"]] for name, each in pairs.items()}
        return draws
