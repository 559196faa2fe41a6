"""Draws the weights of networks whose files hold only the recipe."""

import zlib

import numpy as np


def drawn(meta: dict) -> dict[str, np.ndarray]:
    """Return the weights of a file by name, in the original's shapes."""
    weights = {}
    for name, (shape, kind, scale, shift) in meta["specs"].items():
        rng = np.random.default_rng([meta["seed"], zlib.crc32(name.encode())])
        normal = kind == "normal"
        weights[name] = shift + scale * rng.standard_normal(shape) if normal else rng.uniform(0.5, 1.5, shape)
    return weights
