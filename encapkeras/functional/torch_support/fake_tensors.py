"""Tensors that have shapes alone, and programs under way: no decision can depend on values, no piece is too large."""

from __future__ import annotations

import torch

from encapkeras.torch_internals import is_fake, is_tracing


def is_exported() -> bool:
    """Return whether a program for other machines is made, by `torch.export` or TorchScript."""
    return torch.compiler.is_exporting() or is_tracing()


def is_traced() -> bool:
    """Return whether operations are recorded for a program: by `torch.compile`, `torch.export` or TorchScript."""
    return torch.compiler.is_compiling() or is_tracing()


def has_values(tensor: torch.Tensor) -> bool:
    """Return whether there are numbers to look at: not while a program is made, nor in fake and meta tensors."""
    return not (is_traced() or tensor.is_meta or is_fake(tensor))
