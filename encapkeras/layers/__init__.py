"""The Keras layers."""

import keras

from encapkeras.errors import EncapkerasError

if keras.backend.backend() != "torch":
    raise EncapkerasError(
        f"encapkeras needs Keras on PyTorch, but Keras runs on '{keras.backend.backend()}'. Import encapkeras before "
        "keras, or set the environment variable KERAS_BACKEND=torch."
    )

from encapkeras.layers.image_to_capsules import ImageToCapsules
from encapkeras.layers.registry import LAYERS, CapsuleLayer, register_layer

__all__ = ["LAYERS", "CapsuleLayer", "ImageToCapsules", "register_layer"]
