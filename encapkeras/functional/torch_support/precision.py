"""The precision that long sums of exponentials, and statistics of batches, need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_precision(*tensors: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Disable autocast; yield a function that widens half precision to float32, or to float64 if a tensor has it."""
    full = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    with without_autocast(tensors[0]):
        yield lambda tensor: tensor.to(full)


def without_autocast(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Disable autocast on a tensor's device where it is on: exported programs get a part of their own for each time."""
    device = tensor.device.type
    if tensor.is_meta or not torch.is_autocast_enabled(device):  # there is none for meta tensors
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return half precision as float32: squares and lengths lose too much otherwise."""
    return tensor.float() if is_half(tensor) else tensor


def as_floats(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return whole numbers and booleans in a floating type, torch's default if none is given; others as they are."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor
    return tensor.to(dtype or torch.get_default_dtype())


def is_half(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has 16 bits a number."""
    return tensor.dtype in (torch.float16, torch.bfloat16)
