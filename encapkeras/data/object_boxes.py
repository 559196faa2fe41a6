"""Boxes around the objects in images, in the .xml files of ImageNet and PASCAL VOC."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from encapkeras.errors import DataError
from encapkeras.files import open_regular, reading

Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels

SIDES = ("xmin", "ymin", "xmax", "ymax")
LARGEST = 2**20  # bytes of a file


def read_box(path: str) -> Box:
    """Return the box around the largest object of an image: of elements `annotation/object/bndbox`."""
    with reading(path, "the boxes of an image", DataError, "Replace or remove the file"):
        with open_regular(path) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        tree = ElementTree.fromstring(text)  # noqa: S314  # Python's parser bounds what entities may expand to
        boxes = [_box(element) for element in tree.iterfind("object/bndbox")]
    if not boxes:
        raise DataError(f"{path} holds no box: there is no 'object' with a 'bndbox' in it")
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


def _box(element: ElementTree.Element) -> Box:
    sides = [float(element.findtext(side) or "nan") for side in SIDES]
    if not all(map(math.isfinite, sides)):
        raise ValueError(f"the sides of a box (left, top, right, bottom) must be finite numbers; received {sides}")
    left, top, right, bottom = map(round, sides)
    if left >= right or top >= bottom:
        raise ValueError(f"a box from ({left}, {top}) to ({right}, {bottom}) holds no pixel")
    return left, top, right, bottom
