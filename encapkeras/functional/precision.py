"""The precision that long sums of exponentials need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def full_precision(tensor: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Half precision is widened to float32, and autocast kept away.

    Args:
        tensor: The tensor whose type decides: float64 stays.

    Yields:
        What gives a tensor the type to compute in.

    Example:
        >>> with full_precision(torch.zeros(2, dtype=torch.bfloat16)) as wide:
        ...     wide(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    full = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    with torch.autocast(tensor.device.type, enabled=False):
        yield lambda other: other.to(full)
