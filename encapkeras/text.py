"""Numbers, counts and shapes as people read them; names of the user's as each medium shows them."""

from __future__ import annotations

import contextlib
import functools
import html
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from encapkeras.errors import printable

_THOUSANDS = ("", " k", " M", " G", " T", " P")
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|\b_\B|\B_\b")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MISSING = "\N{WHITE SQUARE}"  # in place of a character that no font has
# Fonts for scripts that matplotlib's own lacks; those that are installed are used.
_MORE_FONTS = (
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Segoe UI Symbol",
)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 error", "2,000 errors"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cut(text: str, longest: int) -> str:
    """Return a text shortened to at most this many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def listed(names: Iterable[object], most: int = 50, longest: int | None = 100) -> str:
    """Return names for reading, of which there may be any number, each of any length; None: they are not cut."""
    remaining = iter(names)
    shown = [str(name) if longest is None else cut(str(name), longest) for name in islice(remaining, most)]
    more = sum(1 for _ in remaining)
    return ", ".join([*shown, *([f"and {more:,} more"] if more else [])])


def as_clause(sentence: str) -> str:
    """Return a sentence as it stands behind a colon: in lower case, unless it begins with a name such as `PyTorch`.

    Examples:
        >>> as_clause("A list of maps."), as_clause("EM iterations."), as_clause("PyTorch's name.")
        ('a list of maps.', 'EM iterations.', "PyTorch's name.")
    """
    word = sentence.partition(" ")[0]
    return sentence[:1].lower() + sentence[1:] if word == "A" or word[1:].islower() else sentence


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


def quoted(word: str) -> str:
    """Return a word of a command as the shell of this system takes it."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def is_utf8(name: str) -> bool:
    """Return whether a name, such as that of a folder, can be written as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def in_markdown(text: str) -> str:
    """Return a text that Markdown, which may hold HTML and mathematics, shows as it is; lines remain lines."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text, keep="\n").translate(_HTML))


def in_html(text: str) -> str:
    """Return a text that HTML shows as it is; a dollar sign, too, which begins a formula in a notebook."""
    return html.escape(printable(text, keep="\n")).replace("$", "<span>$</span>")


def html_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for a notebook, which has a style for it.

    Examples:
        >>> html_table(["a"], [["<b>"]])
        '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{in_html(cell)}</th>" for cell in heading)
    body = ("".join(f"<td>{in_html(cell)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def in_figure(name: str) -> str:
    """Return a name that matplotlib draws as it is: not as mathematics, and without warnings about missing glyphs."""
    fonts = _fonts(tuple(_families()))
    shown = printable(name)
    known = "".join(c if any(font.get_char_index(ord(c)) for font in fonts) else _MISSING for c in shown)
    # A legend leaves out names that begin with an underscore.
    return (" " if known.startswith("_") else "") + known.replace("$", r"\$")


@contextlib.contextmanager
def drawing(style: Mapping[Any, Any]) -> Iterator[None]:
    """Draw in a style of matplotlib's, with more fonts for what `in_figure` returns."""
    from matplotlib import rc_context

    with rc_context({**style, "font.family": _families()}):
        yield


def _families() -> list[str]:
    from matplotlib import rcParams

    return list(dict.fromkeys([*rcParams["font.family"], *_more_installed()]))


@functools.cache
def _more_installed() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _MORE_FONTS if name in installed]


@functools.cache
def _fonts(families: tuple[str, ...]) -> list[Any]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return [get_font(findfont(FontProperties(family=[family]))) for family in families]
