"""Large numbers, as people read them."""

from __future__ import annotations

from collections.abc import Sequence

_THOUSANDS = ("", " k", " M", " G", " T", " P")
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape in words; `?` for a size that is not known.

    Example:
        >>> shape_text((8, 8, None, 4))
        '8 x 8 x ? x 4'
    """
    return " x ".join("?" if size is None else str(size) for size in shape)


def count_text(number: float | None) -> str:
    """A number with three digits; `?` for one that is not known.

    Example:
        >>> count_text(19136512), count_text(640), count_text(0), count_text(None)
        ('19.1 M', '640', '0', '?')
    """
    if number is None:
        return "?"
    power = 0
    while number >= 999.5 and power < len(_THOUSANDS) - 1:
        number, power = number / 1000, power + 1
    return f"{_three_digits(number) if power else round(number)}{_THOUSANDS[power]}"


def memory_text(size: int | None) -> str:
    """Bytes, in units of 1024; `?` for a size that is not known.

    Example:
        >>> memory_text(218316544), memory_text(100), memory_text(None)
        ('208.2 MiB', '100 bytes', '?')
    """
    if size is None:
        return "?"
    number, power = float(size), 0
    while number >= 1023.95 and power < len(_BYTES) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f} {_BYTES[power]}" if power else f"{size} {_BYTES[0]}"


def _three_digits(number: float) -> str:
    return f"{number:.{max(0, 3 - len(str(int(number))))}f}"
