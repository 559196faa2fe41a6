"""Numbers, counts and shapes as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

_THOUSANDS = ("", " k", " M", " G", " T", " P")
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 error", "2,000 errors"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cut(text: str, longest: int) -> str:
    """Return a text shortened to at most this many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def listed(names: Iterable[object], most: int = 50, longest: int = 100) -> str:
    """Return names for reading, of which there may be any number, each of any length."""
    remaining = iter(names)
    shown = [cut(str(name), longest) for name in islice(remaining, most)]
    more = sum(1 for _ in remaining)
    return ", ".join([*shown, *([f"and {more:,} more"] if more else [])])


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape such as "8 x 8 x ? x 4"; `?` is an unknown size."""
    return " x ".join("?" if size is None else str(size) for size in shape)


def count_text(number: float | None) -> str:
    """Return a number with three digits, such as "19.1 M"; `?` for an unknown one."""
    if number is None:
        return "?"
    power = 0
    while number >= 999.5 and power < len(_THOUSANDS) - 1:
        number, power = number / 1000, power + 1
    if not power:
        return str(round(number))
    return f"{number:.{max(0, 3 - len(str(int(number))))}f}{_THOUSANDS[power]}"


def memory_text(size: int | None) -> str:
    """Return bytes in units of 1024, such as "208.2 MiB"; `?` for an unknown size."""
    if size is None:
        return "?"
    number, power = float(size), 0
    while number >= 1023.95 and power < len(_BYTES) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f} {_BYTES[power]}" if power else f"{size} {_BYTES[0]}"
