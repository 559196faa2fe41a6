"""The random generators of this process."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch

from encapkeras.keras_internals import global_seed_state, set_global_seed_state

RandomState = dict[str, Any]


def random_state() -> RandomState:
    """Return the state of the generators of Python, NumPy, torch and Keras, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    state: RandomState = {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    of_keras = global_seed_state()
    if of_keras is not None:
        state["keras"] = of_keras.detach().cpu().clone()
    return state


def set_random_state(state: RandomState) -> None:
    """Set the generators to an earlier state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    if "keras" in state:
        set_global_seed_state(state["keras"])
