"""The registry of data sets, and what a data set has to tell: its description and its arrays."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt

from encapkeras.data.image_files import ImageFiles
from encapkeras.errors import RegistrationError
from encapkeras.registry import Registry

Array = npt.NDArray[Any]
ReaderClass = TypeVar("ReaderClass", bound="type[DatasetReader]")

DATASETS = Registry("data set")

# The keys of the `data:` section that are handed to a reader, where its signature asks for them.
SOURCE_PATHS = ("root", "path", "class_list", "boxes")  # of files and folders: in a spec, seen from its own folder
SOURCE_ARGUMENTS = (*SOURCE_PATHS, "channels", "extra")


@dataclass(frozen=True)
class DatasetInfo:
    """What a network has to know about a data set.

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        channels: 1 for grey, 3 for colour; any number in the user's own arrays.
        classes: Number of classes; labels run from 0 to `classes - 1`.
        class_names: The name of each class, in the order of the labels.
        train_images: How many images there are to train and validate with; None if that is not known before reading.
        validation_images: How many images the validation part has that the data set itself brings; None if it brings
            none.
    """

    height: int
    width: int
    channels: int
    classes: int
    class_names: tuple[str, ...]
    train_images: int | None = None
    validation_images: int | None = None


@dataclass(frozen=True)
class ImageArrays:
    """All images and labels of a data set, as read, before any resizing.

    Args:
        train_images: `(N, H, W, C)`, uint8, or float32 in [0, 1]; or image files, decoded when they are needed.
        train_labels: `(N,)`, int64.
        test_images: `M` images, as `train_images`.
        test_labels: `(M,)`, int64.
        validation_images: Those of the data set's own validation part, as `train_images`; None if it has none.
        validation_labels: Their labels; None if there are none.
    """

    train_images: Array | ImageFiles
    train_labels: Array
    test_images: Array | ImageFiles
    test_labels: Array
    validation_images: Array | ImageFiles | None = None
    validation_labels: Array | None = None


class DatasetReader(abc.ABC):
    """Base class of data sets. Those that need no argument have an empty signature."""

    image_size: ClassVar[int | None] = None
    """Height and width in pixels to which images are brought unless the user says otherwise; None: as they are."""

    def __init__(self) -> None:
        super().__init__()  # declares that there are no arguments: the signature of object says nothing

    @abc.abstractmethod
    def describe(self) -> DatasetInfo:
        """The data set as it is stored; cheap: nothing is downloaded and no pixel is read.

        Raises:
            DataError: The description cannot be had, for example because the user's file is missing.
        """

    @abc.abstractmethod
    def read(self) -> ImageArrays:
        """All images and labels, checked.

        Raises:
            DataError: Files are missing or damaged, or hold impossible values.
        """


def register_dataset(name: str) -> Callable[[ReaderClass], ReaderClass]:
    """Makes a data set known to specs, as `data.dataset`.

    Args:
        name: The name that specs use.

    Raises:
        RegistrationError: The class is no `DatasetReader`; it takes other arguments than `root`, `path`, `class_list`,
            `boxes`, `channels` and `extra`, or one of them lacks its annotation or its line in the docstring's
            `Args:`; or the name is taken, or is no name.

    Example:
        >>> from encapkeras.data import DATASETS
        >>> DATASETS["npz"].arguments["path"].doc
        'The file.'
    """
    register = DATASETS.register(name)

    def decorate(cls: ReaderClass) -> ReaderClass:
        if not inspect.isclass(cls) or not issubclass(cls, DatasetReader):
            text = f"data set '{name}': {getattr(cls, '__name__', cls)} must be a DatasetReader"
            raise RegistrationError(f"{text}: derive it from encapkeras.data.DatasetReader")
        strangers = [p for p in inspect.signature(cls).parameters if p not in SOURCE_ARGUMENTS]
        if strangers:
            allowed = f"{', '.join(map(repr, SOURCE_ARGUMENTS[:-1]))} and {SOURCE_ARGUMENTS[-1]!r}"
            raise RegistrationError(f"data set '{name}' takes {strangers}; only {allowed} can be given in a spec")
        return register(cls)

    return decorate
