"""Keras initializers as plain data, and in torch's kernel layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Annotated, Any

import keras
import pydantic
import torch

from encapkeras.errors import suggest


def _as_config(value: Any) -> str | dict[str, Any]:
    """Convert a Keras initializer, in any form, to plain data; raise ValueError if it is not one."""
    if isinstance(value, keras.initializers.Initializer):
        return keras.initializers.serialize(value)  # type: ignore[no-any-return]
    if isinstance(value, dict) and isinstance(value.get("class_name"), str):
        _check_known(value["class_name"])
        try:
            keras.initializers.get(value)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"initializer '{value['class_name']}' does not take this config: {reason}") from None
        return value
    if isinstance(value, str):
        _check_known(value)
        return value
    raise ValueError(
        f"must be the name of a Keras initializer or a map {{class_name: ..., config: {{...}}}}; received {value!r}"
    )


def _check_known(name: str) -> None:
    if not hasattr(keras.initializers, name) or name in ("get", "serialize", "deserialize", "Initializer"):
        names = [name for name in dir(keras.initializers) if name[:1].islower()]
        known = set(names) - {"get", "serialize", "deserialize"}
        raise ValueError(f"no Keras initializer is called '{name}'. {suggest(name, known)}")


InitializerConfig = Annotated[str | dict[str, Any], pydantic.BeforeValidator(_as_config)]
"""The name of a Keras initializer (`glorot_normal`), or `{class_name: random_normal, config: {stddev: 1.0}}`."""


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
