"""Boxes around the objects in images, in the .xml files of ImageNet and PASCAL VOC."""

from __future__ import annotations

from xml.etree import ElementTree

from encapkeras.errors import DataError

Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels

SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_box(path: str) -> Box:
    """Return the box around the largest object of an image: of elements `annotation/object/bndbox`."""
    try:
        tree = ElementTree.parse(path)  # noqa: S314  # Python's parser bounds what entities may expand to
        boxes = [_box(element) for element in tree.iterfind("object/bndbox")]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} cannot be read as the boxes of an image: {error}") from error
    if not boxes:
        raise DataError(f"{path} holds no box: there is no 'object' with a 'bndbox' in it")
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


def _box(element: ElementTree.Element) -> Box:
    left, top, right, bottom = (round(float(element.findtext(side) or "nan")) for side in SIDES)
    if left >= right or top >= bottom:
        raise ValueError(f"a box from ({left}, {top}) to ({right}, {bottom}) holds no pixel")
    return left, top, right, bottom
