"""Weights in files of other kinds than torch's: named arrays in a `.npz` file, and `.h5` files of Keras 2.

A `.h5` file has Keras' own names, which count the layers of a kind in the order in which they were made, across all
networks of a program: `conv2d_7/kernel:0`. They become those of the arrays: `conv1.kernel` and so on.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encapkeras.data.readers.npz import array_header
from encapkeras.errors import CheckpointError
from encapkeras.files import open_regular, reading
from encapkeras.text import listed

SUFFIXES = (".npz", ".h5", ".hdf5")
_MOST_NUMBERS = 1 << 28
"""Of a file: 1 GB in float32, before there is memory for them."""
_LEAVES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "W", "b")
_KINDS = {
    "conv": r"conv(?:2d)?",
    "dense": r"dense",
    "bn": r"bn|batch_normalization",
    "in": r"in|instance_normalization|group_normalization",
}
_DECODER = re.compile(r"decoder|generator", re.IGNORECASE)
_Layer = tuple[str, ...]
"""The parts of a layer's path in a file."""


def read_arrays(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the arrays of a file with one of `SUFFIXES`, by name; no code in the file is run."""
    is_zip = path.suffix.lower() == ".npz"
    kind = "a .npz file" if is_zip else "an .h5 file of Keras 2"
    with reading(path, kind, CheckpointError, "Get the file again."):
        arrays = _read_npz(path) if is_zip else _read_h5(path)
    if not any(array.dtype.kind == "f" and array.ndim for array in arrays.values()):
        raise CheckpointError(f"'{path}' holds no arrays of floating-point numbers, but {listed(arrays) or 'nothing'}")
    return {name: torch.from_numpy(_native(array)) for name, array in arrays.items() if array.dtype.kind in "fiub"}


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    dtype = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=np.float64 if dtype.itemsize > 8 else dtype)  # torch has no wider ones


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        _check_size(sum(member.file_size for member in members) // 4)
        for member in members:
            with archive.open(member) as opened:
                array_header(opened, member.file_size)
            with archive.open(member) as opened:
                array = np.lib.format.read_array(opened, allow_pickle=False)
            arrays[member.filename.removesuffix(".npy")] = array
    return arrays


def _read_h5(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    import h5py

    with open_regular(path) as file, h5py.File(file, "r") as content:
        found: dict[str, Any] = {}
        content.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        found = {name: item for name, item in found.items() if not name.startswith("optimizer_weights/")}
        _check_size(sum(item.size or 0 for item in found.values()))
        external = [name for name, item in found.items() if item.external or item.is_virtual]
        if external:
            raise CheckpointError(f"'{path}' refers to other files, which are not read: {listed(external)}")
        names = _names(found)
        return {names[name]: np.asarray(item[()]) for name, item in found.items()}


def _check_size(numbers: int) -> None:
    if numbers > _MOST_NUMBERS:
        raise ValueError(f"it says that it holds {numbers:,} numbers")


def _names(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return names as in published arrays for the paths of a `.h5` file; those of unknown parts as they are."""
    paths = {path: tuple(path.removesuffix(":0").split("/")) for path in arrays}
    layers = {parts[:-1]: arrays[path] for path, parts in paths.items() if parts[-1] in ("kernel", "gamma")}
    parts_of = _parts(layers)
    names = {}
    for path, (*layer, leaf) in paths.items():
        part = parts_of.get(tuple(layer))
        if leaf in ("W", "b"):
            part = "caps"
        names[path] = f"{part}.{leaf}" if part and leaf in _LEAVES else ".".join((*layer, leaf))
    counts = list(names.values())
    return {path: name if counts.count(name) == 1 else ".".join(paths[path]) for path, name in names.items()}


def _parts(layers: Mapping[_Layer, Any]) -> dict[_Layer, str]:
    """Return the part of the network that each layer is, by the kind in its name and its number among those."""
    primary = _primary(layers)
    parts = {} if primary is None else {primary: "primary"}
    for kind in _KINDS:
        numbered = _of_kind(layers, kind, without=primary)
        first_of_decoder = _number(primary, "conv") if primary is not None and kind == "conv" else None
        counts = {"": 0, "decoder.": 0}
        for number, layer in numbered:
            behind = first_of_decoder is not None and number is not None and number > first_of_decoder
            decodes = kind == "dense" or behind or any(map(_DECODER.search, layer))
            place = "decoder." if decodes else ""
            counts[place] += 1
            parts[layer] = f"{place}{kind}{counts[place]}"
    return parts


def _of_kind(layers: Iterable[_Layer], kind: str, without: _Layer | None) -> list[tuple[int, _Layer]]:
    numbers = [(_number(layer, kind), layer) for layer in layers if layer != without]
    return sorted((number, layer) for number, layer in numbers if number is not None)


def _number(layer: _Layer, kind: str) -> int | None:
    """Return the number in a layer's name, 0 if there is none; None if the layer is of another kind."""
    found = re.fullmatch(rf"(?:{_KINDS[kind]})_?(\d*)", layer[-1]) if layer else None
    return None if found is None else int(found[1] or 0)


def _primary(layers: Mapping[_Layer, Any]) -> _Layer | None:
    """Return the depthwise convolution: called so, or the first but one with one input for each output."""
    called = [layer for layer in layers if any("primary" in part.lower() for part in layer)]
    if called:
        return called[0]
    convolutions = [layer for _, layer in _of_kind(layers, "conv", without=None)]
    alone = [layer for layer in convolutions[1:] if layers[layer].ndim == 4 and layers[layer].shape[2] == 1]
    return alone[0] if alone else None
