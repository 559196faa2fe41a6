"""Load saved models, with a clear message for each way in which that fails."""

from __future__ import annotations

import os
import zipfile
import zlib

import keras

from encapkeras.errors import EncapkerasError, PluginError
from encapkeras.plugins import plugin_of_module


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
    if not zipfile.is_zipfile(path):  # Keras would say that it is not there
        raise EncapkerasError(f"'{shown}' cannot be loaded: it is not a .keras file, or is damaged")
    try:
        return keras.saving.load_model(path)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        plugin = plugin_of_module(str(error))
        if plugin:
            raise PluginError(
                f"'{shown}' cannot be loaded: it has a class of the plugin {plugin}. Load that first: "
                f"encapkeras.load_plugin('{plugin}')."
            ) from error
        raise EncapkerasError(f"'{shown}' cannot be loaded: {error}") from error
