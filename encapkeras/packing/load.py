"""Load a packed model, after its hashes have been checked."""

from __future__ import annotations

import os
from pathlib import Path

import keras

import encapkeras.backend  # noqa: F401  # before Keras
from encapkeras.errors import PackedModelError, nearest, printable
from encapkeras.model.load_model import load_model
from encapkeras.packing.packed_folder import MODEL, check_whole
from encapkeras.packing.zoo import SUMS, zoo_models


def load(name: str | os.PathLike[str]) -> keras.Model:
    """Load a packed model: a folder that `encapkeras pack` wrote, or one that comes with encapkeras.

    The hashes of all files of the folder are checked first. The network is read from its `model.keras` alone, as
    `load_model` reads it: no spec file is needed, and no code in the folder runs.

    Args:
        name: A packed folder, or, where there is no such folder, the name of a model that comes with encapkeras.

    Returns:
        The network, in the state of the best epoch of its training; `class_names` has the names of its classes.

    Raises:
        PackedModelError: There is no such folder or model, or a file of the folder is missing or changed.
        EncapkerasError: The network cannot be loaded.

    Examples:
        >>> import encapkeras
        >>> model = encapkeras.load("digits_dynamic")
        >>> model.input_shape, model.class_names[:3]
        ((None, 32, 32, 1), ('0', '1', '2'))
    """
    return load_model(packed_model(name))


def packed_model(name: str | os.PathLike[str]) -> Path:
    """Return the `.keras` file of a packed model, after checking the folder."""
    folder = Path(name)
    models = zoo_models()
    if not os.path.lexists(folder):
        if str(name) not in models:
            near = nearest(str(name), models)
            hint = f"Did you mean {near}? " if near else ""
            raise PackedModelError(
                f"there is no folder '{printable(str(name))}', and no model of that name comes with encapkeras. "
                f"{hint}Those that do: {', '.join(models) or 'none'}"
            )
        folder = models[str(name)]
    check_whole(folder)
    return folder / MODEL


def is_packed(path: Path) -> bool:
    """Whether a path is a packed folder, or not there and the name of a model that comes with encapkeras."""
    return (path / SUMS).is_file() or (not os.path.lexists(path) and str(path) in zoo_models())
