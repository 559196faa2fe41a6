"""A starter spec: a network with comments for a data set, a kind of routing and a size, to be changed by its user.

All starters have one trunk: data, convolutions, losses and recipe of `templates/trunk.yaml`. The other templates extend
it by what turns its last map into scores. They are valid specs of the largest network, with everything that a starter
may have; `starter_spec` joins the two texts, changes values and removes the rest. The result is valid for images of
any size: convolutions halve the map as often as the images allow, and `expect` follows from the same count.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encapkeras.data import DatasetInfo, DataSettings, describe
from encapkeras.data.registry import path_arguments
from encapkeras.errors import ArgumentError, printable
from encapkeras.spec.spec_files import installed_schema, move_path
from encapkeras.spec.write import yaml_line
from encapkeras.text import quoted

Routing = Literal["none", "master", "approximate", "dynamic", "em"]
Size = Literal["small", "medium", "large"]

SMALLEST_MAP = 4  # sides of the last map, where the images allow it
LARGEST_MAP = 8
IMAGES_OF_SMALL = 17_000  # that a small network sees in all epochs together
TEMPLATES = Path(__file__).with_name("templates")
TEMPLATE_CONVOLUTIONS = 4
BACKBONE_STRIDE = 32  # of the last map of networks of Keras
BACKBONE_SIDE = 96  # pixels: a last map of 3x3

_TEMPLATE_OF = {"none": "none", "master": "stages", "approximate": "stages", "dynamic": "dynamic", "em": "em"}
_IDEAS = {
    "none": "No routing: a plain convolutional network, to compare capsule networks with.",
    "master": "Master convolutions: each capsule type is convolved by itself.",
    "approximate": "Approximate routing: a second branch looks at all capsule types, and each branch weighs the other.",
    "dynamic": "Dynamic routing: capsules go where others agree with them.",
    "em": "EM routing: the capsule of a class is a cluster of the votes of the capsules below.",
}
_MIRRORED = ("fashion_mnist", "cifar10", "cifar100")  # mirrored, they still show the same thing
_CROPPED = ("digits", "mnist", "svhn", *_MIRRORED)


@dataclass(frozen=True)
class _Plan:
    """A network for images of any size, and how it is trained."""

    types: int
    filters: tuple[int, ...]  # of each convolution; those of the last are split into types of dimension 8
    strides: tuple[int, ...]  # of each convolution, for images of 32x32
    batch_size: int = 64
    epochs: int | None = None  # None for as many as take about a minute
    dims: tuple[int, ...] = (8, 16)  # of the capsules of each stage; those of the classes have the last
    sub_layers: int = 2
    routed_twice: bool = False  # whether a map of capsules is routed before the classes


_PLANS = {
    "small": _Plan(8, (32, 64, 64), (2, 2, 2), dims=(8,), sub_layers=1),
    "medium": _Plan(16, (64, 128, 128), (1, 2, 2), epochs=30),
    "large": _Plan(32, (64, 128, 256, 256), (1, 2, 2, 1), batch_size=128, epochs=60, routed_twice=True),
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
    backbone: str | None = None,
) -> str:
    """Return the text of a starter spec; `data` holds the data set, its files and its image size.

    With `backbone`, a network of `keras.applications` takes the place of the convolutions, and small images are made
    larger, unless `data` says how large.
    """
    info = describe(data)
    if backbone and data.image_size is None and min(info.height, info.width) < BACKBONE_SIDE:
        data = data.model_copy(update={"image_size": BACKBONE_SIDE})
        info = describe(data)
    if info.samples != "images":
        example = "a copy of sequence_capsules" if info.samples == "sequences" else "the example in docs/data.md"
        raise ArgumentError(
            f"starter specs are networks for images; data set '{data.dataset}' has {info.samples}. Begin with {example}"
        )
    if info.task == "segments":
        raise ArgumentError(
            f"starter specs are networks for images of one class; data set '{data.dataset}' has a class for each pixel"
            ". Begin with a copy of shapes_capsules or shapes_unet"
        )
    plan = _PLANS[size]
    text = _template(_TEMPLATE_OF[routing])
    if backbone:
        text = _with_backbone(text, backbone)
        plan = dataclasses.replace(plan, filters=plan.filters[-1:], strides=(BACKBONE_STRIDE,))
    text = re.sub(r"(?<=\S) {3,}(?=# .*$)", "\t", text, flags=re.MULTILINE)  # comments behind values, until aligned
    # The user's own words come last, since what precedes would change them too.
    text = _with_training(_with_network(text, info, plan), info, plan)
    if not ot:
        text = re.sub(r"  # Optimal transport(.*\n)+?(?=\n)", "", text)
    if _TEMPLATE_OF[routing] == "stages":
        text = _with(text, kind=routing, sub_layers=plan.sub_layers)
    facts = {name: getattr(info, name) for name in ("height", "width", "channels", "classes")}
    text = _Template(text).substitute(
        facts,
        file=quoted(printable(file)),
        schema=installed_schema(),
        size=size,
        dataset=yaml_line(data.dataset),
        idea=_IDEAS[routing],
    )
    text = _with(text, name=name, types=plan.types, class_dim=plan.dims[-1])
    return _aligned(_with_data(text, data, info, plan, folder or Path()))


def _template(part: str) -> str:
    """Return the text of the trunk with that of a part, which extends it, in its places."""
    trunk, own = ((TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8") for name in ("trunk", part))
    variables, _, nodes = own.partition("\n")[2].partition("model:\n  nodes:\n")
    return trunk.replace("data:\n", f"{variables}data:\n", 1).replace("losses:\n", f"{nodes}\nlosses:\n", 1)


def _with_backbone(text: str, backbone: str) -> str:
    """Put a network of Keras in the place of the trunk's convolutions."""
    own = (TEMPLATES / "backbone.yaml").read_text(encoding="utf-8").partition("conv$i: null\n")[2]
    own = own.replace("MobileNetV3Small", backbone)
    text = re.sub(r"    # Convolutions, each(?:.+\n)+", lambda old: own, text)
    rates = "  # learning_rates: {backbone: 0.1}\t# where it is trained: a tenth of the rate\n"
    return re.sub(r"  optimizer: .*\n", lambda old: old[0] + rates, text)


class _Template(string.Template):
    delimiter = "@"


def _with(text: str, **values: Any) -> str:
    """Replace the value of the first line with each key; a tuple is a value and what its comment gains."""
    for key, given in values.items():
        value, remark = given if isinstance(given, tuple) else (given, "")
        line = re.compile(rf"^( *{key}: ).*?(\t.*)?$", re.MULTILINE)
        text = line.sub(lambda old: f"{old[1]}{yaml_line(value)}{old[2] or ''}{remark}", text, count=1)  # noqa: B023
    return text


def _with_rows(text: str, node: str, columns: Mapping[str, Sequence[int]]) -> str:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=False)]
    lines = "".join(f"        - {yaml_line({'i': i, **row})}\n" for i, row in enumerate(rows, 1))
    return re.sub(rf"( {re.escape(node)}:\n +repeat:\n)( +- .*\n)+", lambda old: old[1] + lines, text)


def _with_data(text: str, data: DataSettings, info: DatasetInfo, plan: _Plan, folder: Path) -> str:
    known = info.train_images
    # Held out are a tenth, more of few images, and none where that would be less than one image a class.
    fitting = (part for part in (0.1, 0.2) if known is None or round(part * known) >= info.classes)
    validation = next(fitting, 0)
    left = math.inf if known is None else known - round(validation * known)
    batch_size = plan.batch_size
    while batch_size > max(2, left // 4):  # two at least: optimal transport compares images
        batch_size //= 2
    # Random changes that leave the images of a known data set what they are; for others, and in short, an idea.
    changes: dict[str, Any] = {}
    if data.dataset in _CROPPED and info.height == info.width:
        changes |= {"resize": info.height + max(2, info.height // 16), "crop": True}
    if data.dataset == "affnist":
        changes |= {"pad": 6, "crop": True}  # digits anywhere on the canvas, as those of the test are
    if data.dataset in _MIRRORED or not changes:
        changes["mirror"] = True
    in_use = data.dataset in _CROPPED and plan.epochs
    augment = (changes, "" if in_use else ", for long trainings")
    text = _with(text, dataset=data.dataset, batch_size=batch_size, validation=validation, augment=augment)
    if not in_use:
        text = text.replace("  augment:", "  # augment:", 1)
    files = {key: data.arguments.get(key) for key in path_arguments(data.dataset)}
    given: dict[str, Any] = {key: move_path(path, Path.cwd(), folder.resolve()) for key, path in files.items() if path}
    given |= {"image_size": data.image_size} if data.image_size else {}
    lines = "".join(f"  {key}: {yaml_line(value)}\n" for key, value in given.items())
    return text.replace("  batch_size:", f"{lines}  batch_size:", 1)


def _with_network(text: str, info: DatasetInfo, plan: _Plan) -> str:
    strides = list(plan.strides) if plan.strides == (BACKBONE_STRIDE,) else _choose_strides(plan.strides, info)
    filters = (*plan.filters[:1] * (len(strides) - len(plan.strides)), *plan.filters)
    shrinks = list(itertools.accumulate(strides, operator.mul))
    text = _with_rows(text, "conv$i", {"filters": filters, "stride": strides, "shrink": shrinks})
    text = re.sub(r"(    conv4: .*filters: )\d+", lambda old: f"{old[1]}{filters[-1]}", text)
    text = re.sub(r"\bconv([34])\b", lambda old: f"conv{int(old[1]) + len(filters) - TEMPLATE_CONVOLUTIONS}", text)
    if all(side % shrinks[-1] == 0 for side in (info.height, info.width)):
        text = re.sub(r"\((height|width) \+ [^)]*\) // shrink", r"\1 // shrink", text)
    halves = -(-min(info.height, info.width) // (2 * shrinks[-1])) >= SMALLEST_MAP
    text = _with_rows(text, "stage$i", {"dim": plan.dims, "stride": (1, 1 + halves)})
    text = re.sub(r"\bstage2\b", f"stage{len(plan.dims)}", text)
    routed = re.search(r"    # A map of 4x4(?:.*\n)+?      inputs: (.*)\n(?:.+\n)+\n", text)
    if routed and not plan.routed_twice:
        text = text.replace(routed[0], "")
        text = re.sub(r"inputs: (\[routed, .*|routed)$", f"inputs: {routed[1]}", text, flags=re.MULTILINE)
    return text


def _choose_strides(planned: Sequence[int], info: DatasetInfo) -> list[int]:
    """Return strides for these images: small ones are halved later or not, large ones by more convolutions first."""

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


def _with_training(text: str, info: DatasetInfo, plan: _Plan) -> str:
    if plan.epochs:
        return _with(text, epochs=plan.epochs)
    known = info.train_images
    epochs = 12 if known is None else min(12, max(1, round(IMAGES_OF_SMALL / known)))
    text = _with(text, epochs=(epochs, "; more learn more"), schedule={"kind": "cosine"})
    return re.sub(r"  weight_decay: .*\n", "", text)


def _aligned(text: str) -> str:
    """Return the text with the comments at the ends of neighboring lines below each other."""
    parts = [line.partition("\t") for line in text.split("\n")]
    widths: list[int] = []
    for position, (code, _, remark) in enumerate(parts):
        before = widths[-1] if position and parts[position - 1][2] else 0
        widths.append(max(before, len(code)) if remark else 0)
    for position in reversed(range(len(parts) - 1)):
        if widths[position] and widths[position + 1]:
            widths[position] = widths[position + 1]
    aligned = zip(parts, widths, strict=True)
    return "\n".join(f"{code:<{width}}   {remark}" if remark else code for (code, _, remark), width in aligned)
