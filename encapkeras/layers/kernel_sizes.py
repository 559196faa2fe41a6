"""Kernel sizes, strides and padding as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pydantic

from encapkeras.errors import ShapeError


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


def _sides(least: int) -> Callable[[Any], Any]:
    """Return what accepts one whole number for rows and columns, or two."""

    def check(value: Any) -> Any:
        sides = value if isinstance(value, list | tuple) else [value]
        whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool) and side >= least]
        if len(whole) < len(sides) or (isinstance(value, list | tuple) and len(sides) != 2):
            raise ValueError(
                f"must be a whole number of at least {least}, or two of them, [rows, columns]; received {value!r}"
            )
        return list(sides) if isinstance(value, list | tuple) else value

    return check


def _window(value: Any) -> Any:
    return value if value is None else _sides(1)(value)


WindowSize = Annotated[int | list[int] | None, pydantic.BeforeValidator(_window)]
"""Height and width of a window: one number, or `[rows, columns]`; None for a window as large as the map."""

KernelSize = Annotated[int | list[int], pydantic.BeforeValidator(_sides(1))]
"""Height and width of a kernel: one number, or `[rows, columns]`."""

KernelSizeOrMap = Annotated[
    int | list[int] | Literal["map"],
    pydantic.BeforeValidator(lambda value: value if value == "map" else _sides(1)(value)),
]
"""The same, or `map` for a kernel as large as the input."""

Strides = Annotated[int | list[int], pydantic.BeforeValidator(_sides(1))]
"""Strides: one number, or `[rows, columns]`."""

Padding = Annotated[int | list[int], pydantic.BeforeValidator(_sides(0))]
"""Padding: one number, or `[rows, columns]`."""


PaddingOrHalf = Annotated[
    int | list[int] | None, pydantic.BeforeValidator(lambda value: value if value is None else _sides(0)(value))
]
"""Padding, or None for half the kernel."""


def as_sides(value: int | Sequence[int]) -> tuple[int, int]:
    """Return rows and columns."""
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows, columns


def sides_of(owner: str, name: str, value: int | Sequence[int], *, flat: bool, across: int) -> tuple[int, int]:
    """Return rows and columns of an argument; of a sequence, which is a map of one row, `across` and its number.

    Raises:
        ShapeError: A sequence, and two numbers.
    """
    if not flat:
        return as_sides(value)
    if not isinstance(value, int):
        raise ShapeError(f"{owner}: of a sequence {name} is one number; received {list(value)}")
    return across, value


def as_tuple(sizes: KernelSizes) -> tuple[int, ...]:
    """Return the sizes as a tuple."""
    return tuple(sizes) if isinstance(sizes, list) else (sizes,)
