"""Numbers of Python as tensors that no GPU is waited for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

import torch

from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced


def numbers_on(like: torch.Tensor, numbers: float | Sequence[float]) -> torch.Tensor:
    """Return `like.new_tensor(numbers)`; on a GPU the device fills it, since a copy from the host would wait for it.

    Args:
        like: Has the type and the device of the result.
        numbers: One number, or a few.

    Returns:
        A tensor `()`, or `(len(numbers),)`.

    Examples:
        >>> numbers_on(torch.zeros(2), [1, 0.5])
        tensor([1.0000, 0.5000])
    """
    if like.device.type in ("cpu", "meta") or is_traced():
        return like.new_tensor(numbers)
    if isinstance(numbers, Sequence):
        return torch.stack([like.new_full((), number) for number in numbers])
    return like.new_full((), numbers)


def made_on(like: torch.Tensor, make: Callable[..., torch.Tensor], *arguments: Hashable) -> torch.Tensor:
    """Return `make(*arguments)` on the device of a tensor, where it is kept for the next calls; not to be changed."""
    if has_values(like):
        return _kept(make, like.device, *arguments)
    return _kept(make, torch.device("cpu"), *arguments).to(like.device)


@functools.lru_cache(maxsize=64)
def _kept(make: Callable[..., torch.Tensor], device: torch.device, *arguments: Hashable) -> torch.Tensor:
    return make(*arguments).to(device)
