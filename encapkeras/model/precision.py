"""A network in bfloat16 or float16 by torch's autocast, and TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import torch

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def computing_in(precision: str, inputs: Any) -> Iterator[Callable[[Any], Any]]:
    """Has a network's products of matrices and convolutions made in a precision.

    torch's autocast gives them half precision; what needs more, as routing does, keeps it away. A CPU computes float16
    networks in float32, and so do programs that `torch.export` makes: not all that run them know half precision.

    Args:
        precision: `float32`, `bfloat16` or `float16`.
        inputs: What goes in, for the device; of symbolic tensors, and those without numbers, nothing is computed.

    Yields:
        What widens the network's outputs, a tensor or a tree of them, to float32; nothing changes where float32 is
        computed.

    Example:
        >>> ones = torch.ones(2, 2)
        >>> with computing_in("bfloat16", ones) as widened:
        ...     third = widened(ones @ ones / 3)
        >>> third.dtype, bool(third[0, 0] == torch.tensor(2 / 3).bfloat16())
        (torch.float32, True)
    """
    first = keras.tree.flatten(inputs)[0]
    kind = first.device.type if isinstance(first, torch.Tensor) else "meta"
    if precision == "float32" or kind == "meta" or torch.compiler.is_exporting():
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
    """Whether GPUs may round the factors of float32 products and convolutions to 10 bits; a CPU is not concerned.

    Args:
        allowed: None for what torch is set to.

    Example:
        >>> with tf32(True):
        ...     torch.backends.cuda.matmul.allow_tf32
        True
    """
    if allowed is None or torch.compiler.is_exporting():
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
