"""Where tensors have shapes alone: what depends on numbers cannot be decided there, and no piece is too large."""

from __future__ import annotations

import torch

from encapkeras.torch_internals import is_fake


def has_values(tensor: torch.Tensor) -> bool:
    """Whether there are numbers to look at: not under a compiler, and not in tensors that only follow shapes.

    Args:
        tensor: Any tensor.

    Example:
        >>> has_values(torch.zeros(2)), has_values(torch.zeros(2, device="meta"))
        (True, False)
    """
    return not (torch.compiler.is_compiling() or tensor.is_meta or is_fake(tensor))
