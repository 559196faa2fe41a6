"""Kernel sizes of master convolutions, as arguments."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic


def _odd(value: Any) -> Any:
    sizes = value if isinstance(value, list | tuple) else [value]
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
    if not sizes or len(whole) < len(sizes) or any(size < 1 or size % 2 == 0 for size in whole):
        raise ValueError(
            f"must be an odd whole number, or a list of different ones such as [5, 3, 1]; received {value!r}"
        )
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"must not name a size twice; received {value!r}")
    return list(sizes) if isinstance(value, list | tuple) else value


KernelSizes = Annotated[int | list[int], pydantic.BeforeValidator(_odd)]
"""One odd kernel size, or several whose convolutions are summed: `[5, 3, 1]` is the wide variant."""


def as_tuple(sizes: KernelSizes) -> tuple[int, ...]:
    """Return the sizes as a tuple."""
    return tuple(sizes) if isinstance(sizes, list) else (sizes,)
