"""Changes of bytes, trees, arrays and zip files by chance."""

import copy
import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63)
DEEP = "@deep nesting@"  # stands in a tree for what Python could not write by itself
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "..", "/etc/passwd", "../../../x", "\x1b[31m", "\ud800", "é" * 50, "x" * 5000, "$\\frac{", "0\n1"),
    *([], {}, [[]], {"a": {}}, [None] * 300, {"": 0}, {"class_name": "x"}, DEEP),
)


def changed_bytes(chance: random.Random, data: bytes) -> bytes:
    """One to four changes: bits, bytes, pieces, integers."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 2, 4, 8, chance.randrange(1, 200)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at:at] = chance.randbytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            source = chance.randrange(len(changed) + 1)
            changed[at : at + length] = changed[source : source + length]
        elif kind == 5:
            changed[at : at + length] = chance.randbytes(length)
        else:
            changed = bytearray(changed_field(chance, bytes(changed), 0, len(changed)))
    return bytes(changed)


def changed_field(chance: random.Random, data: bytes, first: int, end: int) -> bytes:
    """An integer of 1 to 8 bytes between these places becomes an interesting one, or one near what it was."""
    size = chance.choice((1, 2, 4, 4, 8))
    at = chance.randrange(first, max(min(end, len(data)) - size, first) + 1)
    order = chance.choice(("little", "big"))
    before = int.from_bytes(data[at : at + size], order)
    value = chance.choice(
        (*INTERESTING, before + 1, before - 1, before * 2, before ^ (1 << chance.randrange(8 * size)))
    )
    return data[:at] + (value % 256**size).to_bytes(size, order) + data[at + size :]


def changed_tree(chance: random.Random, tree: Any, leaf: Callable[[random.Random, Any], Any] | None = None) -> Any:
    """A tree of maps and lists with one entry changed, removed, added, renamed or exchanged; `leaf` changes a value."""
    root = {"": copy.deepcopy(tree)}
    places = [(root, "")]
    for holder, key in places:  # grows meanwhile
        inner = holder[key]
        if isinstance(inner, dict):
            places += [(inner, name) for name in inner]
        elif isinstance(inner, list):
            places += [(inner, index) for index in range(len(inner))]
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1 and holder is not root:
        other_holder, other_key = chance.choice(places)
        holder[key], other = copy.deepcopy(other_holder[other_key]), holder[key]
        if chance.random() < 0.5 and other_holder is not root:
            other_holder[other_key] = copy.deepcopy(other)
    elif kind == 2 and isinstance(holder, dict) and holder is not root:
        holder[chance.choice(("", "x", "x" * 5000, "a\x1b[2J", str(key).upper(), f"{key} "))] = holder.pop(key)
    elif kind == 3 and isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key] * chance.choice((2, 3, 50))
    elif kind == 4 and isinstance(holder[key], int | float):
        holder[key] = chance.choice((holder[key] + 1, -holder[key], holder[key] * 1000, holder[key] + 0.5))
    elif kind in (5, 6) and leaf is not None and not isinstance(holder[key], dict | list):
        holder[key] = leaf(chance, holder[key])
    else:
        holder[key] = chance.choice(HOSTILE)
    return root[""]


def deep(chance: random.Random, text: str) -> str:
    """A text of JSON or YAML with real nesting where `DEEP` stood."""
    levels = chance.choice((30, 990, 5000, 100_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}"), ("[[", "]]")))
    return text.replace(f'"{DEEP}"', opening * levels + "0" + closing * levels)


def changed_array(chance: random.Random, array: np.ndarray) -> np.ndarray:
    """Another dtype, shape, order or value."""
    kind = chance.randrange(7)
    if kind == 0:
        return array.astype(chance.choice("?bBhHiIqQefdFD") if array.dtype.kind in "biuf" else "U1")
    if kind == 1:
        return array.reshape(chance.choice(((-1,), (*array.shape, 1), (1, *array.shape), array.shape[::-1])))
    if kind == 2:
        return array[: chance.choice((0, 1, max(len(array) - 1, 0)))] if array.ndim else array
    if kind == 3:
        return np.asfortranarray(array) if chance.random() < 0.5 else array[..., ::-1] if array.ndim else array
    if kind == 4 and array.size and array.dtype.kind in "biuf":
        changed = array.copy().reshape(-1)
        limits = [np.nan, np.inf, -1e30] if array.dtype.kind == "f" else [_least(array), _most(array)]
        changed[chance.randrange(changed.size)] = chance.choice(limits)
        return changed.reshape(array.shape)
    if kind == 5:
        return array.astype(array.dtype.newbyteorder())
    return np.array(chance.choice((0, 1.5, "text", b"bytes", np.datetime64("2020-01-01"), 1j)))


def _least(array: np.ndarray) -> int:
    return False if array.dtype.kind == "b" else np.iinfo(array.dtype).min


def _most(array: np.ndarray) -> int:
    return True if array.dtype.kind == "b" else np.iinfo(array.dtype).max


# --- zip files ---

Members = dict[str, bytes]


def members(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(content: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, method)
    return written.getvalue()


def changed_directory(chance: random.Random, data: bytes) -> bytes:
    """A zip file with one field changed: of its directory, of the record in front of a member, or of its end."""
    signature, fields = chance.choice(
        (
            (b"PK\x01\x02", ((4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2))),
            (b"PK\x01\x02", ((34, 2), (36, 2), (38, 1), (38, 4), (42, 4), (46, 1))),
            (b"PK\x03\x04", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 1))),
            (b"PK\x05\x06", ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        )
    )
    places = [at for at in range(len(data)) if data.startswith(signature, at)] if signature else []
    if not places:
        return data
    offset, size = chance.choice(fields)
    at = chance.choice(places) + offset
    before = int.from_bytes(data[at : at + size], "little")
    value = chance.choice((before ^ (1 << chance.randrange(8 * size)), before + 1, before - 1, *INTERESTING))
    return data[:at] + (value % 256**size).to_bytes(size, "little") + data[at + size :]


def changed_members(chance: random.Random, content: Members) -> bytes:
    """A zip file, right in itself, with a member removed, renamed, doubled, added, or of another compression."""
    content = dict(content)
    name = chance.choice(list(content))
    kind = chance.randrange(6)
    if kind == 0:
        del content[name]
    elif kind == 1:
        other = chance.choice(("../x", "/etc/x", "", "a" * 3000, name.upper(), f"{name}/", "\x1b[31m"))
        content[other] = content.pop(name)
    elif kind == 2:
        content[chance.choice(("x", "x.npy", "../../x", "assets/../../x", "c" * 60_000))] = b"more"
    elif kind == 3:
        return zipped(content, chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    elif kind == 4:
        content[name] = chance.choice(
            (b"", content[name][:-1], content[name] + b"\0", content[chance.choice(list(content))])
        )
    else:
        written = bytearray(zipped(content, chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))))
        written[chance.randrange(len(written))] ^= 1 << chance.randrange(8)
        return bytes(written)
    return zipped(content)


def chunks_of_png(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks
