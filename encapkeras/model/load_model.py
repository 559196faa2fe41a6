"""Load saved models, with a clear message for each way in which that fails."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from typing import Any

import keras
import torch

from encapkeras.errors import EncapkerasError, PluginError
from encapkeras.files import LONGEST_CONFIGURATION, LONGEST_REASON, read_member
from encapkeras.plugins import plugin_of_module
from encapkeras.text import cut

# Where a file may name what networks consist of. Keras looks elsewhere too, and so finds functions that write files.
_NAMED = re.compile(
    r"keras(\.(layers|models|activations|constraints|dtype_policies|initializers|losses|metrics|ops|quantizers|random"
    r"|regularizers|optimizers(\.schedules)?|src\.[\w.]+))?"
)
_UNSOUND = "Skipping nested container|Skipping invalid path"  # Keras only warns of these


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a saved `.keras` file, of a spec's model or any other that has encapkeras' layers.

    Raises:
        EncapkerasError: There is no such file, or it is not a Keras model.
    """
    shown = os.fspath(path)
    if os.path.isdir(path):
        raise EncapkerasError(
            f"'{shown}' cannot be loaded: it is a folder. Of a run, give checkpoints/best.keras or last.keras in it"
        )
    if not os.path.isfile(path):
        raise EncapkerasError(f"'{shown}' cannot be loaded: there is no such file")
    if not shown.endswith(".keras") or not zipfile.is_zipfile(path):  # Keras would say that it is not there
        raise EncapkerasError(f"'{shown}' cannot be loaded: it is not a .keras file, or is damaged")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", _UNSOUND)
            warnings.filterwarnings("ignore", "Casting complex values")  # a damaged file must not print
            _check_names(path)
            return keras.saving.load_model(path)
    except (PluginError, MemoryError, torch.OutOfMemoryError):  # a lack of memory says nothing about the file
        raise
    except Exception as error:  # Keras raises whatever its reading of a damaged file ends in
        plugin = plugin_of_module(str(error))
        if plugin:
            raise PluginError(
                f"'{shown}' cannot be loaded: it has a class of the plugin {plugin}. Load that first: "
                f"encapkeras.load_plugin('{plugin}')."
            ) from error
        text = str(error).rpartition("Exception encountered: ")[2] or type(error).__name__
        reason = cut(re.sub(r"\x1b\[\d*m", "", text), LONGEST_REASON)
        raise EncapkerasError(f"'{shown}' cannot be loaded: {reason}") from error


def _check_names(path: str | os.PathLike[str]) -> None:
    """Refuse a file that names what no network consists of, such as a function of Keras that writes a file."""
    with zipfile.ZipFile(path) as archive:
        remaining: list[Any] = [json.loads(read_member(archive, "config.json", LONGEST_CONFIGURATION))]
    while remaining:
        part = remaining.pop()
        if isinstance(part, list):
            remaining += part
        elif isinstance(part, dict):
            remaining += part.values()
            module, name = str(part.get("module")), str(part.get("class_name"))
            name = str(part.get("config")) if name == "function" else name
            if module.partition(".")[0] == "keras" and (not _NAMED.fullmatch(module) or "." in name):
                raise ValueError(f"it names {module}.{name}, which is not a part of a network")
