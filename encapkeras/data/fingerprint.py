"""Which images a data set holds, in a few lines: whether they are still the same later, or on another machine.

Of image files, and of mask files, the names below the folder that holds them all, and the sizes count, so that a data
set may move and no file is read; of arrays the values.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from encapkeras.data.image_files import ImageFiles
from encapkeras.data.mask_files import MaskFiles
from encapkeras.data.registry import Array, ImageArrays
from encapkeras.errors import printable
from encapkeras.text import counted, cut, listed

FORMAT = 1  # fingerprints of another format say nothing
MOST_NAMED = 3
LONGEST_NAME = 60
AT_ONCE = 1024  # images of an array

Fingerprint = Mapping[str, Any]


def fingerprint(class_names: Sequence[str], arrays: ImageArrays) -> Fingerprint:
    """Return the names of the classes, and of each part the order of its labels, and size and digest of each class.

    Of a part with masks there is one digest of all images, in place of one for each class.
    """
    parts = {
        "training": (arrays.train_images, arrays.train_labels),
        "validation": (arrays.validation_images, arrays.validation_labels),
        "test": (arrays.test_images, arrays.test_labels),
    }
    given = {name: (images, labels) for name, (images, labels) in parts.items() if labels is not None}
    root = _common_folder([images for images, _ in given.values() if isinstance(images, ImageFiles)])
    mask_root = _common_folder([labels for _, labels in given.values() if isinstance(labels, MaskFiles)])
    described = {}
    for name, (images, labels) in given.items():
        if isinstance(labels, MaskFiles) or labels.ndim > 2:
            described[name] = _with_masks(images, labels, root, mask_root)
            continue
        several = labels.ndim == 2
        of_class = [
            np.flatnonzero(labels[:, label] if several else labels == label) for label in range(len(class_names))
        ]
        unlabeled = _contents(images, np.flatnonzero(~labels.any(1)), root) if several else ()
        described[name] = {
            "images": len(labels),
            "order": _digest([labels.astype("<i8").tobytes(), *unlabeled]),
            "classes": [f"{len(indices)} {_digest(_contents(images, indices, root))}" for indices in of_class],
        }
    return {"format": FORMAT, "class_names": list(class_names), "parts": described}


def _with_masks(
    images: Array | ImageFiles | None, labels: Array | MaskFiles, root: str, mask_root: str
) -> dict[str, Any]:
    every = np.arange(len(labels))
    masks = _contents(ImageFiles(labels.paths, 1) if isinstance(labels, MaskFiles) else labels, every, mask_root)
    return {
        "images": len(labels),
        "order": _digest(masks),
        "classes": [],
        "all": _digest(_contents(images, every, root)),
    }


def _common_folder(parts: Sequence[ImageFiles | MaskFiles]) -> str:
    folders = {os.path.dirname(path) for files in parts for path in files.paths}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives
        return ""


def _contents(images: Array | ImageFiles | None, indices: Array, root: str) -> Iterator[bytes | memoryview]:
    if isinstance(images, ImageFiles):
        for index in indices:
            path, box = images.paths[index], images.boxes[index] if images.boxes else None
            name = path.removeprefix(root + os.sep)
            cut_to = f"{os.path.basename(box)}\0{_size(box)}" if box else ""
            yield f"{name}\0{_size(path)}\0{cut_to}\n".replace(os.sep, "/").encode(errors="surrogateescape")
    elif images is not None:
        yield f"{images.dtype} {images.shape[1:]}".encode()
        for start in range(0, len(indices), AT_ONCE):
            yield np.ascontiguousarray(images[indices[start : start + AT_ONCE]]).data.cast("B")


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # whoever reads it says so
        return -1


def _digest(contents: Iterator[bytes | memoryview] | Sequence[bytes | memoryview]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def data_differences(there: Fingerprint, here: Fingerprint) -> str:
    """Return how two data sets differ, such as `48 training images there, 49 here`; empty if they do not.

    Examples:
        >>> def taken(*names, train=2):
        ...     images, labels = np.zeros((train, 1, 1, 1), np.uint8), np.arange(train) % 2
        ...     return fingerprint(names, ImageArrays(images, labels, images[:2], labels[:2]))
        >>> data_differences(taken("cat", "dog"), taken("cat", "dog", train=3))
        "2 training images there, 3 here (of 'cat' 1 there, 2 here)"
        >>> data_differences(taken("cat", "dog"), taken("cat", "hound"))
        "class 1 is 'dog' there and 'hound' here"
    """
    if there.get("format") != here.get("format") or there == here:
        return ""
    names = class_differences(there["class_names"], here["class_names"])
    if names:
        return names
    parts = dict.fromkeys([*there["parts"], *here["parts"]])
    found = [_of_part(part, here["class_names"], there["parts"].get(part), here["parts"].get(part)) for part in parts]
    return "; ".join(text for text in found if text)


def _of_part(part: str, class_names: Sequence[str], there: Fingerprint | None, here: Fingerprint | None) -> str:
    if there == here:
        return ""
    if there is None or here is None:
        return f"a {part} part {'here' if there is None else 'there'} alone"
    if "all" in there or "all" in here:  # with masks
        if there["images"] != here["images"]:
            return f"{counted(there['images'], f'{part} image')} there, {here['images']:,} here"
        others = [what for key, what in (("all", "images"), ("order", "masks")) if there.get(key) != here.get(key)]
        return f"the {part} {' and '.join(others)} are others"
    pairs = zip(class_names, there["classes"], here["classes"], strict=True)
    changed = [(_name(name), before.split()[0], now.split()[0]) for name, before, now in pairs if before != now]
    if not changed:
        return f"the {part} images are in another order"
    if there["images"] == here["images"] and all(before == now for _, before, now in changed):
        return f"{part} images of {_first([name for name, _, _ in changed])} are others"
    of_classes = _first([f"of {name} {before} there, {now} here" for name, before, now in changed])
    return f"{counted(there['images'], f'{part} image')} there, {here['images']:,} here ({of_classes})"


def class_differences(there: Sequence[str], here: Sequence[str]) -> str:
    """Return how the names of classes differ, such as `class 1 is 'dog' there and 'hound' here`; empty if not."""
    if len(there) != len(here):
        lost, new = ([_name(n) for n in mine if n not in other] for mine, other in ((there, here), (here, there)))
        named = (f", {word} {_first(names)}" for word, names in (("without", lost), ("with", new)) if names)
        return f"{len(there)} classes there, {len(here)} here{''.join(named)}"
    pairs = enumerate(zip(there, here, strict=True))
    return _first([f"class {n} is {_name(a)} there and {_name(b)} here" for n, (a, b) in pairs if a != b])


def classes_moved(there: Sequence[str], here: Sequence[str]) -> bool:
    """Return whether some class has another label, not only another name; it is not known if no name is the same."""
    labels = {name: label for label, name in enumerate(there)}
    common = [(label, labels[name]) for label, name in enumerate(here) if name in labels]
    return not common or any(label != before for label, before in common)


def _name(name: str) -> str:
    return f"'{cut(printable(name), LONGEST_NAME)}'"


def _first(texts: Sequence[str]) -> str:
    return listed(texts, MOST_NAMED, longest=None)
