"""Lets Keras load the models made from specs once `encapkeras.layers` is imported."""

from __future__ import annotations

from typing import Any

import keras

import encapkeras


@keras.saving.register_keras_serializable(package="encapkeras", name="SpecModel")
class SavedSpecModel:
    """Stands for `encapkeras.SpecModel` until that is imported, and imports it when a file needs it.

    The layers lie below the graph and do not import it; but a saved model names its class, which Keras must know.
    """

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The model that a configuration describes."""
        return encapkeras.SpecModel.from_config(config)

    def get_config(self) -> dict[str, Any]:
        """Only asked for by Keras' registration: there are no objects of this class."""
        raise TypeError("SavedSpecModel only loads models")
