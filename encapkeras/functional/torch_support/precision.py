"""The precision that long sums of exponentials, and statistics of batches, need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def full_precision(*tensors: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Disable autocast; yield a function that widens half precision to float32, or to float64 if a tensor has it."""
    full = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield lambda tensor: tensor.to(full)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return half precision as float32: squares and lengths lose too much otherwise."""
    return tensor.float() if is_half(tensor) else tensor


def is_half(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has 16 bits a number."""
    return tensor.dtype in (torch.float16, torch.bfloat16)
