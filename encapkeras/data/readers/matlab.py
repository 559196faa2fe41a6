"""Arrays of numbers in the files of MATLAB 5 to 7.2, which `svhn` and `affnist` have.

SciPy's reader crashes on some damaged files, and the program with it. The format: 128 bytes, the last two of which say
which byte of a number comes first; then elements (`_elements`), of which a matrix consists of flags, lengths, a name
and values. In place of values, a structure has the length of its field names, these names, each filled up with zeros to
that length, and a matrix without a name for each field.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from encapkeras.data.registry import Array
from encapkeras.files import open_regular

# Numbers of the format: of elements, of the values in them, and of the arrays that they become.
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}

MOST_PACKED = 100  # times that compression makes an array smaller, apart from small ones; photographs hardly reach 3

STRUCTURE = 2  # of the classes of arrays


def numbers_in(path: Path, names: Collection[str], structure: str = "") -> dict[str, Array]:
    """Return the arrays with these names that are in a file, or in its structure of that name.

    Raises:
        ValueError: The file is damaged, or one of these names is that of something else than numbers.
    """
    with open_regular(path) as file:
        content = memoryview(file.read())
    if bytes(content[124:128]) not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError("it does not start like a file of MATLAB 5 to 7.2")
    order = "<" if content[126] == ord("I") else ">"
    arrays: dict[str, Array] = {}
    for kind, element in _elements(content[128:], order):
        matrix = element
        if kind == COMPRESSED:
            [(kind, matrix)] = islice(_elements(_decompressed(element), order), 2)
        if kind == MATRIX:
            name, flags, lengths, values = _parts_of(matrix, order)
            if structure and name == structure:
                arrays |= _fields(flags, lengths, values, names, order)
            elif not structure and name in names:
                arrays[name] = _array(flags, lengths, list(islice(values, 2)), order)
    return arrays


def _parts_of(matrix: memoryview, order: str) -> tuple[str, memoryview, memoryview, Iterator[tuple[int, memoryview]]]:
    """Return the name of a matrix, its flags and lengths, and the elements after them."""
    elements = _elements(matrix, order)
    first = list(islice(elements, 3))
    if [TYPES.get(kind) for kind, _ in first] != ["u4", "i4", "i1"]:
        raise ValueError("a matrix in it does not start with flags, lengths and a name")
    flags, lengths, name = (part for _, part in first)
    return bytes(name).decode("latin1"), flags, lengths, elements


def _fields(
    flags: memoryview,
    lengths: memoryview,
    values: Iterator[tuple[int, memoryview]],
    wanted: Collection[str],
    order: str,
) -> dict[str, Array]:
    """Return the fields of a structure that are wanted; others may be anything."""
    start = list(islice(values, 2))
    is_one = _class_of(flags, order) == STRUCTURE and math.prod(_lengths(lengths, order)) == 1
    if not is_one or [TYPES.get(kind) for kind, _ in start] != ["i4", "i1"] or len(start[0][1]) != 4:
        raise ValueError("it holds something else than one structure with names of fields")
    (_, length), (_, names) = start
    [size] = np.frombuffer(length, f"{order}i4").tolist()
    if size < 1 or len(names) % size:
        raise ValueError("the names of fields in it do not have the length that it says")
    arrays = {}
    for place in range(0, len(names), size):
        name = bytes(names[place : place + size]).partition(b"\0")[0].decode("latin1")
        kind, matrix = next(values, (0, memoryview(b"")))
        if name in wanted:
            if kind != MATRIX:
                raise ValueError(f"the field {name} in it is not an array")
            _, of_field, shape, numbers = _parts_of(matrix, order)
            arrays[name] = _array(of_field, shape, list(islice(numbers, 2)), order)
    return arrays


def _decompressed(element: memoryview) -> memoryview:
    unpacking, most = zlib.decompressobj(), MOST_PACKED * len(element) + 2**20
    content = unpacking.decompress(element, most)
    if not unpacking.eof:  # where the checksum is
        raise ValueError(f"a compressed array in it has no end, or is more than {MOST_PACKED} times as long")
    return memoryview(content)


def _array(flags: memoryview, lengths: memoryview, values: Sequence[tuple[int, memoryview]], order: str) -> Array:
    number_class, shape = _class_of(flags, order), _lengths(lengths, order)
    if number_class not in CLASSES or len(values) != 1 or values[0][0] not in TYPES or min(shape) < 0:
        raise ValueError("it holds something else than arrays of real numbers")
    [(kind, data)] = values
    numbers = np.frombuffer(data, order + TYPES[kind]).astype(CLASSES[number_class], copy=False)
    return numbers.reshape(shape, order="F")


def _class_of(flags: memoryview, order: str) -> int:
    return int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF


def _lengths(lengths: memoryview, order: str) -> list[int]:
    shape: list[int] = np.frombuffer(lengths, f"{order}i4").tolist()
    return shape


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of elements: two numbers (type, bytes), or in short both in the first with 4 bytes."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, after = place + 8, place + 8 + size + -size % 8
        if kind >> 16:
            kind, size, start, after = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if start + size > len(content):
            raise ValueError("it ends in the middle of an array")
        yield kind, content[start : start + size]
        place = start + size if kind == COMPRESSED else after
