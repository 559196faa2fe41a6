"""Lets Keras load the models made from specs once `encapkeras.layers` is imported."""

from __future__ import annotations

from typing import Any

import keras

import encapkeras


@keras.saving.register_keras_serializable(package="encapkeras", name="SpecModel")
class SavedSpecModel:
    """Replaces `encapkeras.SpecModel` until a saved file needs it: layers are below `encapkeras.model`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the model that a configuration describes."""
        return encapkeras.SpecModel.from_config(config)

    def get_config(self) -> dict[str, Any]:
        """Raise: Keras' registration asks for this method, but there are no objects of this class."""
        raise TypeError("SavedSpecModel only loads models")
