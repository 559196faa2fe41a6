"""The precision that long sums of exponentials, and statistics of batches, need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def full_precision(*tensors: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Half precision is widened to float32, and autocast kept away.

    Args:
        *tensors: The tensors whose types decide: float64 if one of them has it.

    Yields:
        What gives a tensor the type to compute in.

    Example:
        >>> with full_precision(torch.zeros(2, dtype=torch.bfloat16)) as wide:
        ...     wide(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    full = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield lambda tensor: tensor.to(full)


def is_half(tensor: torch.Tensor) -> bool:
    """Whether a tensor has 16 bits a number.

    Example:
        >>> is_half(torch.zeros(2, dtype=torch.float16))
        True
    """
    return tensor.dtype in (torch.float16, torch.bfloat16)
