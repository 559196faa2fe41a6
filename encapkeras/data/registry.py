"""The registry of data sets, and what a data set provides: its description and its arrays."""

from __future__ import annotations

import abc
import inspect
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy.typing as npt

from encapkeras.data.image_files import ImageFiles
from encapkeras.data.mask_files import MaskFiles
from encapkeras.errors import DataError, RegistrationError, printable
from encapkeras.registry import Registry
from encapkeras.text import is_utf8

Array = npt.NDArray[Any]
ReaderClass = TypeVar("ReaderClass", bound="type[DatasetReader]")

# What every data set has in the `data:` section, whatever its own arguments are; `DataSettings` declares it.
COMMON_SETTINGS = (
    *("dataset", "workers", "batch_size", "subset", "validation", "image_size"),
    *("augment", "affine", "overlap", "balance"),
)
DATASETS = Registry("data set", reserved=frozenset(COMMON_SETTINGS))

_IS_PATH = object()
_PATHS_BY_NAME = {"path", "class_list", "boxes"}  # of plugins that were written before there was `DataPath`

SAMPLE_AXES = {"images": 3, "sequences": 2, "vectors": 1}

DataPath = Annotated[str, _IS_PATH]
"""The type of a reader's argument that names a file or folder.

In a spec a relative one starts at the folder of the file that gives it, so that the reader receives an absolute path;
in Python it starts at the current folder.
"""


@dataclass(frozen=True)
class DatasetInfo:
    """What a network has to know about a data set.

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        channels: 1 for grayscale, 3 for color; any number in the user's own arrays.
        classes: Number of classes; labels run from 0 to `classes - 1`.
        class_names: The name of each class, in the order of the labels.
        train_images: Number of images for training and validation; None if not known before reading.
        validation_images: Number of images in the data set's own validation part; None if it has none.
        samples: What the samples are: `images`; `sequences` of `width` steps, each of `channels` numbers, with height
            1; or `vectors` of `channels` numbers, with height and width 1.
        classes_per_image: How many classes each image has: 2 with `data.overlap`; None for any number, none among them,
            as labels `(N, K)` have.
        task: What has a class: each sample (`classes`), or each pixel (`segments`).

    Raises:
        DataError: Two classes have the same name, or one is not valid Unicode, as that of a folder may be.
    """

    height: int
    width: int
    channels: int
    classes: int
    class_names: tuple[str, ...]
    train_images: int | None = None
    validation_images: int | None = None
    samples: Literal["images", "sequences", "vectors"] = "images"
    classes_per_image: int | None = 1
    task: Literal["classes", "segments"] = "classes"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample as the network takes it: `(H, W, C)`, `(T, F)` of a sequence, `(F,)` of a vector."""
        return (self.height, self.width, self.channels)[-SAMPLE_AXES[self.samples] :]

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Return whether an input of this shape, without the batch, takes the samples; None is any size."""
        sample = self.input_shape
        return len(shape) == len(sample) and all(a in (None, b) for a, b in zip(shape, sample, strict=True))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the scores that a network gives: `(K,)`, or `(H, W, K)` of each pixel."""
        return (self.height, self.width, self.classes) if self.task == "segments" else (self.classes,)

    def takes(self, scores: Sequence[int | None]) -> bool:
        """Return whether a network may give scores of this shape; a side that is None may be any."""
        due = self.output_shape
        return len(scores) == len(due) and all(size in (None, has) for size, has in zip(scores, due, strict=True))

    def __post_init__(self) -> None:
        for name in self.class_names:
            if not is_utf8(name):
                raise DataError(f"the name of class '{printable(name)}' is not UTF-8; rename it, or its folder")
        name, times = next(iter(Counter(self.class_names).most_common(1)), ("", 0))
        if times > 1:
            raise DataError(f"{times} classes are called '{printable(name)}'; give each class a name of its own")


@dataclass(frozen=True)
class ImageArrays:
    """All images and labels of a data set, as read, before any resizing.

    Args:
        train_images: `(N, H, W, C)`, uint8, or float32 in [0, 1]; or image files, decoded when they are needed. Of
            sequences `(N, 1, T, F)`, of vectors `(N, 1, 1, F)`, float32.
        train_labels: `(N,)`, int64; or, if images have any number of labels, `(N, K)`, float32, 1 for each of them.
            With task `segments` masks, the class of each pixel: `(N, H, W)`, uint8, or mask files in the order of the
            images.
        test_images: `M` images, as `train_images`.
        test_labels: Their labels or masks, as `train_labels`.
        validation_images: Those of the data set's own validation part, as `train_images`; None if it has none.
        validation_labels: Their labels; None if there are none.
    """

    train_images: Array | ImageFiles
    train_labels: Array | MaskFiles
    test_images: Array | ImageFiles
    test_labels: Array | MaskFiles
    validation_images: Array | ImageFiles | None = None
    validation_labels: Array | MaskFiles | None = None


class DatasetReader(abc.ABC):
    """Base class of data sets; the typed signature of a subclass declares its arguments in the `data:` section."""

    image_size: ClassVar[int | None] = None
    """Height and width in pixels to which images are resized unless the user says otherwise; None: as they are."""

    def __init__(self) -> None:
        super().__init__()  # declares that there are no arguments: the signature of object says nothing

    @abc.abstractmethod
    def describe(self) -> DatasetInfo:
        """Return the data set's description as stored. Cheap: downloads nothing and reads no pixel.

        Raises:
            DataError: There is no description, for example because the user's file is missing.
        """

    def remarks(self) -> list[str]:
        """Return what is likely a slip although the data can be used, for example a folder that is ignored.

        Each becomes a warning when the data set is described or loaded.
        """
        return []

    @abc.abstractmethod
    def read(self) -> ImageArrays:
        """Return all images and labels, checked.

        Raises:
            DataError: Files are missing or damaged, or contain invalid values.
        """


def register_dataset(name: str) -> Callable[[ReaderClass], ReaderClass]:
    """Return a decorator that makes a data set known to specs, as `data.dataset`.

    The arguments of the class, each with its type and its line in the docstring's `Args:`, become keys of the `data:`
    section. Annotate files and folders with `DataPath`.

    Args:
        name: The name that specs use.

    Raises:
        RegistrationError: The class is not a `DatasetReader`; an argument has the name of a common setting such as
            `batch_size`, a type that specs cannot hold, no annotation or no line in the docstring's `Args:`; or the
            name is taken, or is not valid.

    Examples:
        >>> from encapkeras.data import DATASETS
        >>> DATASETS["npz"].arguments["path"].doc
        'The file.'
    """
    register = DATASETS.register(name)

    def decorate(cls: ReaderClass) -> ReaderClass:
        if not inspect.isclass(cls) or not issubclass(cls, DatasetReader):
            text = f"data set '{name}': {getattr(cls, '__name__', cls)} must be a DatasetReader"
            raise RegistrationError(f"{text}: derive it from encapkeras.data.DatasetReader")
        register(cls)
        for argument in DATASETS[name].arguments.values():
            if _holds(argument.annotation, lambda part: inspect.isclass(part) and issubclass(part, PurePath)):
                DATASETS.forget([name])
                raise RegistrationError(
                    f"data set '{name}' (class {cls.__name__}): '{argument.name}' is a path of pathlib, and specs hold "
                    "strings: annotate it with encapkeras.data.DataPath"
                )
        return cls

    return decorate


def path_arguments(dataset: object) -> list[str]:
    """Return the arguments of a data set that are paths; those of all data sets for an unknown name."""
    entries = [DATASETS[dataset]] if isinstance(dataset, str) and dataset in DATASETS else DATASETS.values()
    arguments = [argument for entry in entries for argument in entry.arguments.values()]
    paths = [
        argument.name
        for argument in arguments
        if argument.name in _PATHS_BY_NAME or _holds(argument.annotation, lambda part: part is _IS_PATH)
    ]
    return list(dict.fromkeys(["root", *paths]))


def _holds(annotation: Any, matches: Callable[[Any], bool]) -> bool:
    return matches(annotation) or any(_holds(part, matches) for part in typing.get_args(annotation))
