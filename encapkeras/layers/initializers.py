"""Keras initializers in torch's kernel layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch

from encapkeras.layers.keras_objects import InitializerConfig


def get_initializer(config: InitializerConfig, name: str) -> keras.initializers.Initializer:
    """Return the initializer of one of a layer's weights: a seed in its config gives each weight other numbers."""
    initializer = keras.initializers.get(config)
    own = initializer.get_config()
    if isinstance(own.get("seed"), int):
        own["seed"] = (own["seed"] + zlib.crc32(name.encode())) % 2**31
    return type(initializer).from_config(own)


def in_torch_layout(config: InitializerConfig, name: str) -> Callable[..., Any]:
    """Return the initializer of a kernel `(out, in, height, width)`, with the fans of Keras' layout."""
    initializer = get_initializer(config, name)

    def make(shape: tuple[int, ...], dtype: Any = None) -> Any:
        if _on_meta():
            return keras.ops.zeros(shape, dtype)
        filters, inputs, height, width = shape
        return initializer((height, width, inputs, filters), dtype=dtype).permute(3, 2, 0, 1).contiguous()

    return make


def window_matrices(initializer: Any, name: str, pose: str) -> Callable[..., Any]:
    """Return the initializer of the vote matrices of windows, with the fans of a convolution over all child types.

    The matrices are `(..., K_h, K_w, N, J, E, D)`, or `(..., K_h, K_w, N, J, X, C)` of matrix poses.
    """
    initializer = get_initializer(initializer, name)

    def make(shape: tuple[int, ...], dtype: Any = None) -> Any:
        if _on_meta():
            return keras.ops.zeros(shape, dtype)
        *places, height, width, types, outputs, first, second = shape
        inner, outer = (second, first) if pose == "vector" else (first, second)
        kernel = initializer((*places, height, width, types * inner, outputs * outer), dtype=dtype)
        by_matrix = kernel.unflatten(-1, (outputs, outer)).unflatten(-3, (types, inner)).movedim(-3, -2)
        return (by_matrix.mT if pose == "vector" else by_matrix).contiguous()

    return make


def as_matrices(config: InitializerConfig, name: str, axis: int) -> Callable[..., Any]:
    """Return the initializer of a stack of matrices along an axis, each drawn by itself, with a matrix's fans."""

    def make(shape: tuple[int, ...], dtype: Any = None) -> Any:
        if _on_meta():
            return keras.ops.zeros(shape, dtype)
        matrix = shape[:axis] + shape[axis + 1 :]
        drawn = [get_initializer(config, f"{name}_{number}")(matrix, dtype=dtype) for number in range(shape[axis])]
        return torch.stack(drawn, dim=axis)

    return make


def _on_meta() -> bool:
    """Return whether weights have shapes alone, as when a spec is checked: drawing numbers takes most of that time."""
    return keras.ops.zeros(()).device.type == "meta"  # type: ignore[no-any-return]


def random_shares(shape: tuple[int, ...], dtype: Any = None) -> torch.Tensor:
    """Draw shares, uniform among all whose sum over the last axis is 1; the same in every model."""
    drawn = np.random.default_rng(0).exponential(size=shape)
    shares: torch.Tensor = keras.ops.convert_to_tensor(drawn / drawn.sum(-1, keepdims=True), dtype)
    return shares
