"""Whether a file that Keras wrote holds the weights of a network: names and shapes, without any value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encapkeras.errors import ArgumentError
from encapkeras.files import open_regular, reading
from encapkeras.keras_internals import LayerPlace
from encapkeras.text import counted, listed

ENDINGS = (".weights.h5", ".h5")
MOST_SHOWN = 10  # layers that differ
_Shapes = tuple[tuple[int, ...], ...]


def check_weights_file(path: str, network: str, places: Sequence[LayerPlace]) -> None:
    """Compare the layers of a file with those of a network, all at once; raises `ArgumentError` if they differ.

    Args:
        path: A `.weights.h5` file, or a `.h5` file as Keras' downloads are.
        network: The network's name for messages.
        places: Its layers with weights, in their order.
    """
    if not path.endswith(ENDINGS):
        raise ArgumentError(f"must be imagenet, null or a file that Keras wrote, .weights.h5 or .h5; received '{path}'")
    if not Path(path).is_file():
        raise ArgumentError(f"'{path}' cannot be read: there is no such file")
    with reading(path, "a file of weights of Keras", ArgumentError, "Get the file again."):
        differences = _differences(path, places)
    if differences:
        more = [f"and {len(differences) - MOST_SHOWN} more"] if len(differences) > MOST_SHOWN else []
        raise ArgumentError(
            f"'{path}' has the weights of another network than {network} without its classifier and with these "
            f"arguments. They differ in {counted(len(differences), 'layer')}: "
            f"{'; '.join([*differences[:MOST_SHOWN], *more])}"
        )


def _differences(path: str, places: Sequence[LayerPlace]) -> list[str]:
    import h5py

    with open_regular(path) as opened, h5py.File(opened, "r") as file:
        if path.endswith(ENDINGS[0]):
            return _by_name(_in_weights_file(file), places)
        return _in_order(_in_download(file), places)


def _in_weights_file(file: Any) -> dict[str, _Shapes]:
    """Return the shapes of each layer with weights by the layer's path in a `.weights.h5` file."""
    found: dict[str, _Shapes] = {}
    layers = file["layers"] if "layers" in file else {}
    for name in layers:
        variables = layers[name].get("vars", {})
        if len(variables):
            found[f"layers/{name}"] = tuple(tuple(variables[str(i)].shape) for i in range(len(variables)))
    if not found:
        raise ValueError("it holds no layers with weights")
    return found


def _in_download(file: Any) -> list[tuple[str, _Shapes]]:
    """Return the layers with weights, with their shapes, in the order of a `.h5` file."""
    content = file["model_weights"] if "model_weights" in file else file
    found = []
    for name in _texts(content, "layer_names"):
        shapes = tuple(tuple(content[name][weight].shape) for weight in _texts(content[name], "weight_names"))
        if shapes:
            found.append((name, shapes))
    return found


def _texts(group: Any, name: str) -> list[str]:
    """Return the texts of an attribute, which Keras cuts into `NAME0`, `NAME1` ... if it is long."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while not parts or f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in part]


def _by_name(found: Mapping[str, _Shapes], places: Sequence[LayerPlace]) -> list[str]:
    needed = {place.path: place for place in places}
    differences = [_difference(place, path, found.get(path)) for path, place in needed.items()]
    others = [f"{path} {_text(shapes)} is not in the network" for path, shapes in found.items() if path not in needed]
    return [text for text in differences if text] + others


def _in_order(found: Sequence[tuple[str, _Shapes]], places: Sequence[LayerPlace]) -> list[str]:
    pairs = [_difference(place, name, shapes) for place, (name, shapes) in zip(places, found, strict=False)]
    missing = [_difference(place, place.path, None) for place in places[len(found) :]]
    others = [f"{name} {_text(shapes)} is not in the network" for name, shapes in found[len(places) :]]
    return [text for text in [*pairs, *missing] if text] + others


def _difference(place: LayerPlace, name: str, shapes: _Shapes | None) -> str:
    if shapes == place.shapes:
        return ""
    if shapes is None:
        return f"'{place.layer}' {_text(place.shapes)} is missing"
    return f"'{place.layer}' has {_text(place.shapes)}, the file {_text(shapes)} ({name})"


def _text(shapes: _Shapes) -> str:
    return listed(("x".join(map(str, shape)) or "1" for shape in shapes), longest=None)
