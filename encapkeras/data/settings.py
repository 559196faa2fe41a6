"""The `data:` section of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from encapkeras.data.registry import DATASETS, DataPath, DatasetReader
from encapkeras.errors import ArgumentError, suggest
from encapkeras.registry import Entry
from encapkeras.validation import Argument, Checker, Settings, ValueProblem, error_of, key_hint, plain

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)

OVERLAP_SHIFT = 4  # pixels

Share = Annotated[float, Field(ge=0, le=1)]


class AugmentSettings(Settings):
    """Random changes of the training images; validation and test images are only resized and center-cropped.

    Examples:
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
        description="Cut the image at a random place instead of the center; needs a larger 'resize', or 'pad'.",
    )
    pad: NonNegativeInt = Field(
        default=0,
        description="Black pixels put on each side of the training images before a random part is cut out: with crop "
        "and no larger 'resize', images are shifted by up to that many pixels.",
    )
    mirror: bool = Field(default=False, description="Mirror each image left to right with probability 1/2.")
    brightness: Share = Field(
        default=0.0, description="Multiply pixels by a random factor from 1 - value to 1 + value (0 to 1)."
    )
    contrast: Share = Field(
        default=0.0,
        description="Multiply the distance from the image's mean gray by a random factor from 1 - value to 1 + value "
        "(0 to 1).",
    )
    saturation: Share = Field(
        default=0.0,
        description="Multiply the distance from each pixel's gray by a random factor from 1 - value to 1 + value "
        "(0 to 1); color images only.",
    )
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0,
        description="Rotate the color circle by a random fraction of a full turn, from -value to value (0 to 0.5); "
        "color images only.",
    )
    cutout: NonNegativeInt = Field(
        default=0,
        description="Side in pixels of a square at a random place of each training image that is filled with the "
        "image's mean color, the last of all changes; its center is anywhere in the image.",
    )

    def check(self, height: int, width: int, channels: int | None = None) -> None:
        """Check that images of this size (in pixels) and number of channels (None: unknown) can be changed this way.

        Raises:
            ArgumentError: The images are not square, there is nothing to crop, or no color to change.
        """
        size = f"{height}x{width}"
        if height != width and (self.resize is not None or (self.crop and not self.pad)):
            raise ArgumentError(
                f"augment.{'resize' if self.resize is not None else 'crop'} is for square images; these are {size}, "
                "and resizing would make them square and keep only a part of each. Set data.image_size, which "
                "makes the images square, or remove augment.resize and augment.crop"
            )
        if self.resize is not None and self.resize < height:
            raise ArgumentError(
                f"augment.resize is {self.resize}, smaller than the images ({size}); it must be at least {height}"
            )
        if self.crop and self.resize in (None, height) and not self.pad:
            raise ArgumentError(
                f"augment.crop has nothing to crop: set augment.resize to more than the images' size ({size}), for "
                f"example {height + 2}, or augment.pad, or remove augment.crop"
            )
        if self.pad and not self.crop:
            raise ArgumentError("augment.pad adds pixels that the center crop then removes: set augment.crop: true")
        if self.cutout > min(height, width):
            raise ArgumentError(f"augment.cutout is {self.cutout}, larger than the images ({size})")
        color = [name for name in ("saturation", "hue") if getattr(self, name) > 0]
        if color and channels not in (None, 3):
            raise ArgumentError(
                f"augment.{' and augment.'.join(color)} can only change color images (3 channels); these have "
                f"{channels}. Set to 0"
            )


class AffineSettings(Settings):
    """An affine map of each image, always the same one, as affNIST's: of test images, and of others if wanted.

    A point p, from the middle of the image, goes to `R(r) S(k) diag(a, b) p + t`: it is scaled by a across and b along,
    sheared, turned by r, and moved by t. All six numbers are drawn for each image by themselves, uniformly.

    Examples:
        >>> AffineSettings(rotation=45).scale
        0.2
    """

    model_config = STRICT

    border: NonNegativeInt = Field(
        default=0,
        description="Black pixels put on each side of all images, those of the training too, before the change: 6 "
        "makes 40x40 of 28x28 ('image_size'), as affNIST. The network takes images of that size.",
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        default=20.0, description="Largest angle r in degrees, in both directions (0 to 180)."
    )
    shear: Share = Field(default=0.2, description="Largest shear k, in both directions (0 to 1).")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="Factors a and b are from 1 - value to 1 + value (0 to below 1)."
    )
    shift: NonNegativeInt | None = Field(
        default=None,
        description="Largest shift in pixels to the right, left, bottom and top. null: a fifth of the side with its "
        "border, rounded down: 8 of 40.",
    )
    training: bool = Field(
        default=False,
        description="Whether training and validation images are changed too, each always in the same way; otherwise "
        "they only get the border.",
    )
    seed: NonNegativeInt = Field(
        default=0, description="Decides the maps, whatever the seed of the training: the same for all networks."
    )


class DataSettings(Settings):
    """The `data:` section: which images, how they become batches, and the arguments of the data set.

    The data set's own arguments, such as `path` of `npz`, are given next to the settings that all data sets share.

    Raises:
        ArgumentError: Naming all keys that are unknown, missing or wrong.

    Examples:
        >>> DataSettings(dataset="digits", batch_size=32).batch_size
        32
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)  # extra: the data set's own arguments

    dataset: str = Field(
        description="Name of the data set, for example digits, fashion_mnist, cifar10, npz, image_folder."
    )
    root: DataPath | None = Field(
        default=None,
        description="Folder with the data set's files. Searched first; then $ENCAPKERAS_DATA and the cache folder.",
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
        description="Fraction of the training images held out for validation, from 0 (none) to below 1; or 'own' for "
        "the validation part that comes with the data set.",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        description="Height and width in pixels of the images that the network takes. null: 32 for the built-in data "
        "sets, 40 for affnist, 64 for image_folder, 128 for h_imagenet, the arrays' own size for npz.",
    )
    augment: AugmentSettings | None = Field(
        default=None, description="Random changes of the training images; null for none."
    )
    affine: AffineSettings | None = Field(
        default=None,
        description="An affine map of each test image, always the same one: rotation, shear, scale and shift. null for "
        "none; {} for the ranges of affNIST.",
    )
    overlap: Literal[2] | None = Field(
        default=None,
        description="2: each image is merged with one of another class, pixel by pixel the larger value, both shifted "
        "by up to 4 pixels, on images that are 8 pixels larger than 'image_size'. Both classes are to be recognized.",
    )

    balance: bool = Field(
        default=False,
        description="Whether each epoch draws equally many training images of each class, as many in total as there "
        "are: images of rare classes come several times, some of frequent ones not at all.",
    )

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"no data set is called '{name}'. {suggest(name, DATASETS)}")
        return name

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, check: ModelWrapValidatorHandler[DataSettings]) -> DataSettings:
        """Check the data set's own arguments too, and report all problems at once."""
        if not isinstance(values, dict):
            return check(values)
        given = _without_unset(plain(values))
        problems = _argument_problems(given)
        try:
            settings = check(given)
        except ValidationError as error:
            raise error_of(cls.__name__, problems, given, error) from None
        if problems:
            raise error_of(cls.__name__, problems, given)
        size = settings.image_size or DATASETS[settings.dataset].target.image_size  # type: ignore[attr-defined]
        settings._check_margin()
        if settings.balance and settings.overlap:
            raise ArgumentError("data.balance needs images of one class each, and data.overlap gives them two")
        if settings.augment is not None and size is not None:
            settings.augment.check(size + 2 * settings.margin, size + 2 * settings.margin)
        return settings

    @model_serializer(mode="wrap")
    def _in_order(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Put the data set's arguments directly behind its name."""
        values = serialize(self)
        names = ("dataset", "root", *DATASETS[self.dataset].arguments)
        return {**{name: values[name] for name in names if name in values}, **values}

    def __getattr__(self, name: str) -> Any:
        """Return None for an argument of some data set that is not given."""
        if not name.startswith("_") and name not in (self.model_extra or {}) and name in _owners():
            return None
        return super().__getattr__(name)  # type: ignore[misc]

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part."""
        return self.validation == "own" or self.validation > 0

    @property
    def margin(self) -> int:
        """Black pixels on each side of the images that the network takes."""
        return (self.affine.border if self.affine else 0) + (OVERLAP_SHIFT if self.overlap else 0)

    def _check_margin(self) -> None:
        """Check that augmentation does not cut off, or double, what is put around the images."""
        if self.augment is None:
            return
        moving = [f"augment.{name}" for name in ("resize", "crop", "pad") if getattr(self.augment, name)]
        if self.overlap and moving:
            raise ArgumentError(f"data.overlap shifts each image by itself: remove {' and '.join(moving)}")
        if self.margin and self.augment.resize is not None:
            raise ArgumentError(
                "data.affine.border is put around images of data.image_size, which augment.resize would change: remove "
                "one of them"
            )
        if self.margin and self.augment.crop and not self.augment.pad:
            raise ArgumentError(
                "augment.crop has nothing to crop: images have the size of the network with data.affine.border. Set "
                "augment.pad, or remove augment.crop"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """The given arguments of the data set, `root` included."""
        root = {} if self.root is None else {"root": self.root}
        return {**root, **(self.model_extra or {})}

    def reader(self) -> DatasetReader:
        """Return the reader of the chosen data set."""
        entry = DATASETS[self.dataset]
        given = {name: value for name, value in self.arguments.items() if name in entry.arguments}
        reader: DatasetReader = entry.target(**given)
        return reader


def _owners() -> dict[str, list[str]]:
    """Return the arguments that are not common to all data sets, each with the data sets that take it."""
    owners: dict[str, list[str]] = {}
    for dataset, entry in DATASETS.items():
        for name in entry.arguments.keys() - DataSettings.model_fields.keys():
            owners.setdefault(name, []).append(dataset)
    return owners


def _entry(values: Mapping[str, Any]) -> Entry | None:
    """Return the data set that is named; None if there is none of that name."""
    name = values.get("dataset")
    return DATASETS[name] if isinstance(name, str) and name in DATASETS else None


def _without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop arguments that are null, and those of other data sets that are false."""
    entry = _entry(values)
    own = entry.arguments if entry else {}
    unset = {
        name
        for name in _owners()
        if (values.get(name) is None and not _null_is_meant(own.get(name)))
        or (values.get(name) is False and name not in own)
    }
    return {name: value for name, value in values.items() if name not in unset}


def _null_is_meant(argument: Argument | None) -> bool:
    """Tell whether null is a value of its own, and not the default."""
    if argument is None or argument.required or argument.default is None:
        return False
    return not Checker(argument.annotation).problems(None)


def _argument_problems(values: Mapping[str, Any]) -> list[ValueProblem]:
    """Return all problems of the keys that are not common to all data sets."""
    entry, owners = _entry(values), _owners()
    allowed = {*DataSettings.model_fields, *(entry.arguments if entry else owners)}
    problems = []
    for name in [name for name in values if name not in allowed]:
        whose = f"data set '{entry.name}'" if entry else "any data set"
        text = f"'{name}' is not an argument of {whose}. {key_hint(name, allowed)}"
        if entry and name in owners:
            takers = " or ".join(map(repr, owners[name]))
            text = f"'{name}' is an argument of data set {takers}, not of '{entry.name}': remove it"
        problems.append(ValueProblem((name,), text, "unknown"))
    if entry:
        given = {name: values[name] for name in entry.arguments if values.get(name) is not None}
        problems += entry.problems(given)
    return problems
