"""Triton, where it is installed: modules with kernels can be imported, but not run, where it is not.

Triton looks up the names in annotations of kernels: they must be its own, `tensor` and `constexpr`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    from triton import language as tl
    from triton.language import constexpr, tensor
except ImportError:  # torch's builds for CPUs come without it
    triton = tl = constexpr = tensor = None

__all__ = ["blocks", "constexpr", "kernel", "on_device_of", "power_of_two", "tensor", "tl"]


def kernel(function: Callable[..., Any]) -> Any:
    """Decorate a kernel: Triton translates it at its first call."""
    return function if triton is None else triton.jit(function)


def on_device_of(given: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Launch kernels on a tensor's GPU, which need not be the current one."""
    return torch.cuda.device(given.device) if given.is_cuda else contextlib.nullcontext()


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not smaller than a positive number: the sides of blocks are such."""
    return 1 << (number - 1).bit_length()


def blocks(number: int, size: int) -> int:
    """Return how many blocks of a size hold a number of things."""
    return -(-number // size)
