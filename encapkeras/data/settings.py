"""The `data:` section of a spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from encapkeras.data.registry import DATASETS, SOURCE_ARGUMENTS, DatasetReader
from encapkeras.errors import ArgumentError

# What a data set does not do whose reader does not ask for the key.
_PURPOSES = {
    "path": "reads no single file",
    "class_list": "has the classes that it has",
    "boxes": "has no boxes around its objects",
    "channels": "has the channels that it has",
    "extra": "has no extra images",
}

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class AugmentSettings(BaseModel):
    """Random changes of the training images; validation and test images are only resized and centre-cropped.

    Example:
        >>> AugmentSettings(resize=34, crop=True, mirror=True).resize
        34
    """

    model_config = STRICT

    resize: PositiveInt | None = Field(
        default=None,
        description="Height and width in pixels to which all images are resized once, before cropping to the image "
        "size: 34 for light, 40 for heavy augmentation of 32x32 images; square images only. null: the image size.",
    )
    crop: bool = Field(
        default=False,
        description="Cut the image at a random place instead of the centre; needs a larger 'resize', or 'pad'.",
    )
    pad: NonNegativeInt = Field(
        default=0,
        description="Black pixels put on each side of the training images before a random part is cut out: with crop "
        "and no larger 'resize', images are shifted by up to so many pixels.",
    )
    mirror: bool = Field(default=False, description="Mirror every second image, at random, left to right.")
    brightness: float = Field(
        default=0.0, ge=0, le=1, description="Multiply pixels by a random factor from 1 - value to 1 + value (0 to 1)."
    )
    contrast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Multiply the distance from the image's mean grey by a random factor from 1 - value to 1 + value "
        "(0 to 1).",
    )
    saturation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Multiply the distance from each pixel's grey by a random factor from 1 - value to 1 + value "
        "(0 to 1); colour images only.",
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Turn the colour circle by a random part of a full turn, from -value to value (0 to 0.5); colour "
        "images only.",
    )
    cutout: NonNegativeInt = Field(
        default=0,
        description="Side in pixels of a square at a random place of each training image that is filled with the "
        "image's mean colour, the last of all changes; its centre lies anywhere in the image.",
    )

    def check(self, height: int, width: int, channels: int | None = None) -> None:
        """Checks that images of this size can be changed so.

        Args:
            height: Height in pixels of the images that the network takes.
            width: Their width in pixels.
            channels: Their channels; None if not known yet.

        Raises:
            ArgumentError: The images are not square, there is nothing to crop, or no colour to change.
        """
        size = f"{height}x{width}"
        if height != width and (self.resize is not None or (self.crop and not self.pad)):
            raise ArgumentError(
                f"augment.{'resize' if self.resize is not None else 'crop'} is for square images; these are {size}, "
                "and resizing makes squares, of which only a part of the picture would be left. Set data.image_size, "
                "which makes the images square, or remove augment.resize and augment.crop"
            )
        if self.resize is not None and self.resize < height:
            raise ArgumentError(
                f"augment.resize is {self.resize}, smaller than the images ({size}); it must be at least {height}"
            )
        if self.crop and self.resize in (None, height) and not self.pad:
            raise ArgumentError(
                f"augment.crop has nothing to cut off: set augment.resize to more than the images' size ({size}), for "
                f"example {height + 2}, or augment.pad, or remove augment.crop"
            )
        if self.pad and not self.crop:
            raise ArgumentError("augment.pad puts pixels on that the centre is then cut out of: set augment.crop: true")
        if self.cutout > min(height, width):
            raise ArgumentError(f"augment.cutout is {self.cutout}, larger than the images ({size})")
        colour = [name for name in ("saturation", "hue") if getattr(self, name) > 0]
        if colour and channels not in (None, 3):
            raise ArgumentError(
                f"augment.{' and augment.'.join(colour)} can only change colour images (3 channels); these have "
                f"{channels}. Set to 0"
            )


class DataSettings(BaseModel):
    """The `data:` section: which images, in which size, how they are cut into batches and changed at random.

    Example:
        >>> DataSettings(dataset="digits", batch_size=32).batch_size
        32
    """

    model_config = STRICT

    dataset: str = Field(
        description="Name of the data set, for example digits, fashion_mnist, cifar10, npz, image_folder."
    )
    root: str | None = Field(
        default=None,
        description="Folder with the data set's files. Looked in first; then $ENCAPKERAS_DATA and the cache folder.",
    )
    path: str | None = Field(default=None, description="The .npz file; for the data set 'npz' only.")
    class_list: str | None = Field(
        default=None,
        description="Text file of the classes to use, one WordNet id (such as n02119789) a line; h_imagenet only.",
    )
    boxes: str | None = Field(
        default=None,
        description="Folder with ImageNet's annotations (PASCAL VOC .xml files); images are cut to the object's box. "
        "For h_imagenet only.",
    )
    channels: Literal[1, 2, 3] | None = Field(
        default=None,
        description="1 turns the images in image_folder and h_imagenet grey, 3 gives them three colours (the default "
        "there); 1 takes the left image of small_norb (the default there), 2 the left and the right one.",
    )
    extra: bool | None = Field(
        default=None, description="true: train with the 531,131 easier 'extra' images too; svhn only."
    )
    workers: NonNegativeInt | None = Field(
        default=None,
        description="Processes that decode image files; 0: the training process itself. null: as many as processor "
        "cores, at most 8. Arrays need none.",
    )
    batch_size: PositiveInt = Field(default=64, description="Images in a batch; the last of an epoch may be smaller.")
    subset: PositiveInt | None = Field(
        default=None,
        description="How many of the training images are used, those held out for validation among them: a random "
        "choice with the same share of each class. null: all.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] | Literal["own"] = Field(
        default=0.1,
        description="Part of the training images held out for validation, from 0 (none) to below 1; or 'own' for the "
        "validation part that the data set brings.",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        description="Height and width in pixels of the images that the network takes. null: 32 for the built-in data "
        "sets, 64 for image_folder, 128 for h_imagenet, the arrays' own size for npz.",
    )
    augment: AugmentSettings | None = Field(
        default=None, description="Random changes of the training images; null for none."
    )

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            DATASETS[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        return name

    @model_validator(mode="after")
    def _consistent(self) -> DataSettings:
        entry = DATASETS[self.dataset]
        for problem in entry.problems(self._source()):
            where = "" if problem.kind == "missing" else f"data.{'.'.join(map(str, problem.path))} "
            raise ArgumentError(f"{where}{problem.text}")
        for name, purpose in _PURPOSES.items():
            if getattr(self, name) not in (None, False) and name not in entry.arguments:
                raise ArgumentError(f"data set '{self.dataset}' {purpose}: remove '{name}'")
        size = self.image_size or entry.target.image_size  # type: ignore[attr-defined]
        if self.augment is not None and size is not None:
            self.augment.check(size, size)
        return self

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part."""
        return self.validation == "own" or self.validation > 0

    def _source(self) -> dict[str, Any]:
        """The reader's arguments: those of its signature that are set."""
        wanted = [name for name in SOURCE_ARGUMENTS if name in DATASETS[self.dataset].arguments]
        return {name: getattr(self, name) for name in wanted if getattr(self, name) is not None}

    def reader(self) -> DatasetReader:
        """The reader of the chosen data set."""
        reader: DatasetReader = DATASETS[self.dataset].target(**self._source())
        return reader
