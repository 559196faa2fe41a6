"""A starter spec: a network with comments for a data set, a kind of routing and a size, to be changed by its user.

What is written has no mistakes for images of any size: convolutions and stages halve the map as often as the images
allow, and what `expect` says follows from the same count.
"""

from __future__ import annotations

import math
import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encapkeras.data import DatasetInfo, DataSettings, describe
from encapkeras.data.registry import path_arguments
from encapkeras.editor import starter_text
from encapkeras.errors import printable
from encapkeras.spec.spec_files import installed_schema, moved_path
from encapkeras.spec.write import yaml_line

Routing = Literal["master", "approximate", "dynamic", "em"]
Size = Literal["small", "medium", "large"]

SMALLEST_MAP = 4  # sides of the last map, where the images allow it
LARGEST_MAP = 8
IMAGES_OF_SMALL = 17_000  # that a small network is shown in all epochs together

_MIRRORED = ("fashion_mnist", "cifar10", "cifar100")  # what is the same thing in a mirror
_CROPPED = ("digits", "mnist", "svhn", *_MIRRORED)

_REMARK = re.compile(r"(.*)\t(#.*)")


@dataclass(frozen=True)
class Plan:
    """A network that does not know its images yet, and how it is trained.

    Args:
        types: Number of capsule types.
        filters: Of each convolution before the capsules.
        dims: Dimension of the capsules of each stage, or of the one layer of primary capsules.
        strides: Of each convolution and stage, for images of 32x32.
        batch_size: Images in a batch, where there are so many.
        epochs: How often they are gone through; None for as often as takes about a minute.
        sub_layers: Steps of a stage's sub block.
        class_dim: Dimension of the class capsules.
        routed_twice: Whether capsules are routed to capsules that are routed to the classes.
    """

    types: int
    filters: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    batch_size: int = 64
    epochs: int | None = None
    sub_layers: int = 2
    class_dim: int = 16
    routed_twice: bool = False


_STAGES = {
    "small": Plan(8, (16,), (4, 8), (2, 2, 2), sub_layers=1, class_dim=8),
    "medium": Plan(16, (32,), (4, 8, 16), (1, 2, 2, 2), epochs=30),
    "large": Plan(32, (32,), (2, 4, 8, 16), (1, 1, 2, 2, 2), batch_size=128, epochs=60),
}
_VOTING = {
    "small": Plan(16, (32, 64), (8,), (2, 2, 2)),
    "medium": Plan(32, (64, 128), (8,), (1, 2, 2), epochs=30),
    "large": Plan(32, (64, 128, 256), (8,), (1, 2, 2, 1), batch_size=128, epochs=60, routed_twice=True),
}


def starter_spec(
    name: str,
    data: DataSettings,
    file: str,
    *,
    folder: Path | None = None,
    routing: Routing = "approximate",
    size: Size = "small",
    ot: bool = False,
) -> str:
    """The text of a starter spec.

    Args:
        name: Name of the network.
        data: The data set, its files and its image size; the rest of the section is chosen here.
        file: How the comments name the spec's file.
        folder: The folder that the text is for, where relative paths of the data set begin; the current one if not
            given.
        routing: How capsules are routed.
        size: `small` learns in about a minute on a laptop; `medium` wants patience or a GPU, `large` a GPU.
        ot: Whether to add losses of optimal transport.

    Raises:
        DataError: The data set cannot be described: the user's file is missing or wrong.

    Example:
        >>> from encapkeras.data import DataSettings
        >>> "kind: approximate" in starter_spec("mine", DataSettings(dataset="digits"), "mine.yaml")
        True
    """
    starter = _Starter(data, folder or Path(), routing, size)
    sections = [
        _filled(
            starter_text.HEAD,
            name=yaml_line(name),
            file=shlex.quote(printable(file)),
            schema=installed_schema(),
            **starter.facts,
        ),
        *starter.variables(),
        *starter.data(),
        *starter.model(),
        *starter.losses(ot),
        *starter.train(),
    ]
    return _aligned("".join(sections))


class _Template(string.Template):
    delimiter = "@"


def _filled(text: str, **values: Any) -> str:
    return _Template(text).substitute(values)


def _aligned(text: str) -> str:
    """The text with the remarks at the ends of neighbouring lines below each other."""
    lines = [(match[1], match[2]) if (match := _REMARK.fullmatch(line)) else (line, "") for line in text.split("\n")]
    widths: list[int] = []
    for position, (code, remark) in enumerate(lines):
        before = widths[-1] if position and lines[position - 1][1] else 0
        widths.append(max(before, len(code)) if remark else 0)
    for position in reversed(range(len(lines) - 1)):
        if widths[position] and widths[position + 1]:
            widths[position] = widths[position + 1]
    aligned = zip(lines, widths, strict=True)
    return "\n".join(f"{code:<{width}}   {remark}" if remark else code for (code, remark), width in aligned)


def _fitting_strides(planned: Sequence[int], info: DatasetInfo) -> list[int]:
    """The strides for these images: small ones are halved later or not, for large ones more convolutions come first."""

    def side(size: int, halvings: int) -> int:
        return -(-size // (1 << halvings))

    smaller, larger = min(info.height, info.width), max(info.height, info.width)
    wanted, halvings = planned.count(2), 0
    while side(smaller, halvings + 1) >= SMALLEST_MAP and (halvings < wanted or side(larger, halvings) > LARGEST_MAP):
        halvings += 1
    strides = [2] * (halvings - wanted) + list(planned)
    for position in range(len(strides)):
        if strides.count(2) > halvings:
            strides[position] = 1
    return strides


class _Starter:
    """A plan that knows its images; each method gives the texts of a section."""

    def __init__(self, data: DataSettings, folder: Path, routing: Routing, size: Size) -> None:
        self._data = data
        self._folder = folder
        self._info = info = describe(data)
        self._routing = routing
        self._votes = routing in ("dynamic", "em")
        self._plan = plan = (_VOTING if self._votes else _STAGES)[size]
        self._strides = _fitting_strides(plan.strides, info)
        self._filters = (*plan.filters[:1] * (len(self._strides) - len(plan.strides)), *plan.filters)
        ends = range(len(self._filters) + 1, len(self._strides) + 1)
        self._shrinks = [math.prod(self._strides[:end]) for end in ends]
        sizes = {"height": info.height, "width": info.width, "channels": info.channels, "classes": info.classes}
        self.facts = {"size": size, "dataset": yaml_line(data.dataset), "idea": starter_text.IDEAS[routing], **sizes}

    def variables(self) -> list[str]:
        plan = self._plan
        common = _filled(starter_text.VARIABLES, types=plan.types, class_dim=plan.class_dim)
        if self._votes:
            # With each iteration the gradients of EM grow steeper.
            return [common, _filled(starter_text.VOTING_VARIABLES, iterations=2 if self._routing == "em" else 3)]
        return [common, _filled(starter_text.STAGE_VARIABLES, kind=self._routing, sub_layers=plan.sub_layers)]

    def data(self) -> list[str]:
        data, known = self._data, self._info.train_images
        files = {key: data.arguments.get(key) for key in path_arguments(data.dataset)}
        moved = {key: moved_path(path, Path.cwd(), self._folder.resolve()) for key, path in files.items() if path}
        given = {**moved, **({"image_size": data.image_size} if data.image_size else {})}
        validation = self._validation()
        left = math.inf if known is None else known - round(validation * known)
        batch_size = self._plan.batch_size
        while batch_size > max(2, left // 4):  # two at least: optimal transport compares images
            batch_size //= 2
        return [
            _filled(starter_text.DATA, dataset=yaml_line(data.dataset)),
            *(f"  {key}: {yaml_line(value)}\n" for key, value in given.items()),
            _filled(starter_text.DATA_REST, batch_size=batch_size, validation=validation),
            self._augment(),
        ]

    def _validation(self) -> float | int:
        """The part held out: a tenth, more of few images, nothing where it would be less than one image a class."""
        known = self._info.train_images
        fitting = (part for part in (0.1, 0.2) if known is None or round(part * known) >= self._info.classes)
        return next(fitting, 0)

    def _augment(self) -> str:
        """Random changes that leave the images of a known data set what they are; for others, and in short, an idea."""
        info, name = self._info, self._data.dataset
        changes: dict[str, Any] = {}
        if name in _CROPPED and info.height == info.width:
            changes |= {"resize": info.height + max(2, info.height // 16), "crop": True}
        if name in _MIRRORED or not changes:
            changes["mirror"] = True
        use = name in _CROPPED and self._plan.epochs
        return _filled(starter_text.AUGMENT if use else starter_text.NO_AUGMENT, augment=yaml_line(changes))

    def model(self) -> list[str]:
        columns = {"filters": self._filters, "stride": self._strides}
        convolutions = _filled(starter_text.CONVOLUTIONS, rows=_rows(columns))
        return [convolutions, *(self._voting() if self._votes else [self._stages()]), starter_text.OUTPUTS]

    def _stages(self) -> str:
        strides = self._strides[len(self._filters) :]
        rows = _rows({"dim": self._plan.dims, "stride": strides, "shrink": self._shrinks})
        return _filled(starter_text.STAGES, rows=rows, sides=self._sides("shrink"), last=f"stage{len(strides)}")

    def _voting(self) -> list[str]:
        sides = self._sides(str(self._shrinks[-1]))
        capsules = {"conv": self._last_conv, "dim": self._plan.dims[0], "strides": self._strides[-1], "sides": sides}
        texts = [_filled(starter_text.PRIMARY, **capsules)]
        layer, inputs, more = f"{self._routing}_capsules", "capsules", ""
        if self._routing == "em":
            texts.append(starter_text.ACTIVATIONS)
            inputs, more = "[capsules, activations]", "      normalize_distances: true\n"
        if self._plan.routed_twice:
            texts.append(_filled(starter_text.ROUTED, layer=layer, inputs=inputs, more=more))
            inputs = "[routed, routed/activations]" if self._routing == "em" else "routed"
        return [*texts, _filled(starter_text.ROUTED_CLASSES, layer=layer, inputs=inputs, more=more)]

    @property
    def _last_conv(self) -> str:
        return f"conv{len(self._filters)}"

    def _sides(self, shrink: str) -> str:
        """Height and width of a map, as `expect` writes them; rounded up where they do not divide."""
        exact = all(side % self._shrinks[-1] == 0 for side in (self._info.height, self._info.width))
        more = str(int(shrink) - 1) if shrink.isdecimal() else f"{shrink} - 1"
        sides = ("height", "width") if exact else (f"(height + {more})", f"(width + {more})")
        return ", ".join(f"$({side} // {shrink})" for side in sides)

    def losses(self, ot: bool) -> list[str]:
        if not ot:
            return [starter_text.LOSSES]
        last = len(self._plan.dims)
        units = {
            f"align{last - 1}": (f"stage{last - 1}", f"stage{last - 1}/main"),
            f"align{last}": (f"stage{last}/half", f"stage{last}/input"),
        }
        if self._votes:
            units = {"align": ("capsules", self._last_conv)}
        lines = [
            f"  {name}: {{loss: optimal_transport, latent: {latent}, target: {target}, weight: 1}}"
            for name, (latent, target) in units.items()
        ]
        return [starter_text.LOSSES, _filled(starter_text.TRANSPORT, units="\n".join(lines))]

    def train(self) -> list[str]:
        epochs, known = self._plan.epochs, self._info.train_images
        schedule, remark = "one_cycle", "times through the training images"
        if epochs is None:
            epochs = 12 if known is None else min(12, max(1, round(IMAGES_OF_SMALL / known)))
            schedule, remark = "cosine", f"{remark}; more learn more"
        texts = [_filled(starter_text.TRAIN, epochs=epochs, epochs_remark=remark, schedule=schedule)]
        return [*texts, *([starter_text.WEIGHT_DECAY] if self._plan.epochs else []), starter_text.EARLY_STOPPING]


def _rows(columns: Mapping[str, Sequence[int]]) -> str:
    """The rows of a `repeat`, numbered from 1."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=False)]
    return "\n".join(f"        - {yaml_line({'i': i, **row})}" for i, row in enumerate(rows, 1))
