"""Tensors that have shapes alone: no decision can depend on their values, and no piece is too large."""

from __future__ import annotations

import torch

from encapkeras.torch_internals import is_fake


def has_values(tensor: torch.Tensor) -> bool:
    """Return whether there are numbers to look at: not under a compiler, nor in fake and meta tensors."""
    return not (torch.compiler.is_compiling() or tensor.is_meta or is_fake(tensor))
