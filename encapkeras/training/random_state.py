"""The random generators of this process."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

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
    generator = _keras_generator()
    if generator is not None:
        state["keras"] = generator.state.value.detach().cpu().clone()
    return state


def set_random_state(state: RandomState) -> None:
    """Set the generators to an earlier state.

    Example:
        >>> before = random_state()
        >>> first = torch.rand(3), random.random(), np.random.rand()
        >>> set_random_state(before)
        >>> torch.equal(first[0], torch.rand(3)), first[1:] == (random.random(), np.random.rand())
        (True, True)
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    if "keras" in state:
        generator = _keras_generator()
        if generator is None:  # what Keras itself does when somebody draws without a seed
            import keras

            generator = keras.random.SeedGenerator()
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
        generator.state.assign(state["keras"])


def _keras_generator() -> Any:
    """The generator of Keras' random functions that are called without a seed; None if there was no such call yet."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
