"""The source line of a problem, as a terminal shows it, and the part of it that a caret marks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

LARGEST_FILE = 16 * 2**20  # bytes; a larger file is not a spec
NARROWEST = 20  # cells; less of a line is of no use
CUT = "..."

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those of YAML
_MARKED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|\$\((?:[^()]|\([^()]*\))*\)|[^\s,:{}\[\]]+""")


class Excerpt(NamedTuple):
    """A part of a line, with control characters, tabs and what the terminal cannot write replaced."""

    text: str
    start: int  # cells before the marked part
    length: int  # cells of the marked part, at least 1


class SourceFiles:
    """Lines of spec files, read again for a report, in the encoding of the terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._lines: dict[str, list[str]] = {}

    def excerpt(self, file: str, line: int, column: int, width: int) -> Excerpt | None:
        """Return a line from 1, or as much around a column as fits; None if it is empty, unreadable or gone."""
        if file not in self._lines:
            self._lines[file] = _lines(file)
        lines = self._lines[file]
        if not 0 < line <= len(lines) or not 0 < column <= len(lines[line - 1]) + 1 or not lines[line - 1].strip():
            return None
        return self._cut(lines[line - 1], column - 1, max(width, NARROWEST))

    def _cut(self, line: str, column: int, width: int) -> Excerpt:
        from rich.cells import cell_len

        # Look at few more characters than fit: a line may have millions.
        first, last = max(0, column - width), min(len(line), column + width)
        marked = _MARKED.match(line, column, last)
        end = marked.end() if marked else min(column + 1, len(line))
        characters = [self._shown(character) for character in line[first:last]]
        cells = [cell_len(text) for text in characters]
        at = column - first
        if first > 0 or last < len(line) or sum(cells) > width:
            left = _fitting(cells[:at][::-1], max(width // 2, width - sum(cells[at:]) - len(CUT)) - len(CUT))
            right = _fitting(cells[at:], width - sum(cells[at - left : at]) - 2 * len(CUT))
        else:
            left, right = at, len(cells) - at
        before, after = characters[at - left : at], characters[at : at + right]
        front = CUT if first + at - left > 0 else ""
        back = CUT if column + right < len(line) else ""
        head = front + "".join(before)
        length = cell_len("".join(characters[at : min(at + right, end - first)]))
        return Excerpt(head + "".join(after) + back, cell_len(head), max(length, 1))

    def _shown(self, character: str) -> str:
        if character == "\t":
            return "    "
        if not character.isprintable():
            return character.encode("unicode_escape").decode()
        return character.encode(self._encoding, "backslashreplace").decode(self._encoding)


def _fitting(cells: list[int], width: int) -> int:
    total = 0
    for count, size in enumerate(cells):
        total += size
        if total > width:
            return count
    return len(cells)


def _lines(file: str) -> list[str]:
    """Return the lines of a text file; none of a pipe, for example, which can be read only once."""
    path = Path(file)
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            return []
        return _LINE_END.split(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError):
        return []
