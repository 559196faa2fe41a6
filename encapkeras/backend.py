"""Refuses another Keras backend than PyTorch. Packages that need Keras import this before it."""

from __future__ import annotations

import os
import sys

from encapkeras.errors import EncapkerasError

_keras = sys.modules.get("keras")
BACKEND = _keras.backend.backend() if _keras else os.environ.get("KERAS_BACKEND", "torch")

if BACKEND != "torch":
    raise EncapkerasError(
        f"encapkeras needs Keras on PyTorch, but Keras is set to '{BACKEND}'. Import encapkeras before keras and set "
        "the environment variable KERAS_BACKEND=torch, or leave it unset."
    )
