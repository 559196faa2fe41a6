"""A network in bfloat16 or float16 by torch's autocast, and TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import torch

from encapkeras.functional.torch_support.fake_tensors import is_exported

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def use_precision(precision: str, inputs: Any) -> Iterator[Callable[[Any], Any]]:
    """Compute in half precision by torch's autocast; yield a function that widens outputs to float32."""
    # A CPU computes float16 networks in float32, and so do exported programs: not all that run them
    # support half precision.
    first = keras.tree.flatten(inputs)[0]
    kind = first.device.type if isinstance(first, torch.Tensor) else "meta"
    if precision == "float32" or kind == "meta" or is_exported():
        yield _as_it_is
    elif precision == "float16" and kind == "cpu":
        yield _as_it_is
    else:
        with torch.autocast(kind, _HALF[precision]):
            yield _widened


def _as_it_is(outputs: Any) -> Any:
    return outputs


def _widened(outputs: Any) -> Any:
    def widen(tensor: Any) -> Any:
        return tensor.float() if isinstance(tensor, torch.Tensor) and tensor.dtype in _HALF.values() else tensor

    return keras.tree.map_structure(widen, outputs)


@contextlib.contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """Set whether GPUs may round the factors of float32 products and convolutions to 10 bits; None changes nothing."""
    if allowed is None or is_exported():
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
