"""Errors and warnings of specs for people: the place, the source line with a caret, the message.

The same text is printed everywhere; colors, and lines broken between words, are for terminals alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from encapkeras.cli.terminal.source_excerpt import SourceFiles
from encapkeras.errors import Problem

if TYPE_CHECKING:
    from rich.text import Text

INDENT = 4
WIDTH = 120  # cells of an excerpt where no terminal limits it


_PRINTED: set[Problem] = set()  # by `print_first`: they are not printed again


def forget_printed() -> None:
    """Begin a command, of which nothing is printed yet."""
    _PRINTED.clear()


def print_first(problems: Sequence[Problem]) -> None:
    """Print the errors that are known before Keras is imported; `print_problems` then leaves them out."""
    print_problems(problems)
    _PRINTED.update(map(_essence, problems))
    if problems and sys.stderr.isatty():
        _Printer(sys.stderr).line(("what needs Keras is checked next; Ctrl-C ends that", "dim"))
    sys.stderr.flush()


def print_problems(
    problems: Sequence[Problem], summary: str = "", remarks: Mapping[Problem, str] | None = None
) -> None:
    """Print errors or warnings on stderr, some with a remark below, and a last line that counts them."""
    if not problems:
        return
    printer = _Printer(sys.stderr)
    for problem in (problem for problem in problems if _essence(problem) not in _PRINTED):
        printer.show(problem, (remarks or {}).get(problem, ""))
    if summary:
        printer.line((summary, "bold red"))


def _essence(problem: Problem) -> Problem:
    return dataclasses.replace(problem, note="", trace="")


class _Printer:
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        console = Console(file=stream)
        # Rich takes NO_COLOR literally, and would still print in bold.
        self._console = Console(file=stream, color_system=None) if console.no_color else console
        self._wraps = stream.isatty()
        self._files = SourceFiles(self._console.encoding)

    def show(self, problem: Problem, remark: str) -> None:
        color = "yellow" if problem.severity == "warning" else "red"
        note = [("   ", ""), (problem.note, "dim")] if problem.note else []
        self.line((problem.place, "bold"), ("  " if problem.path or note else "", ""), (problem.path, "cyan"), *note)
        self._show_source(problem, f"bold {color}")
        warning = [("warning: ", f"bold {color}")] if problem.severity == "warning" else []
        self._paragraph(*warning, (problem.message, ""))
        for text in filter(None, (problem.trace, remark)):
            self._paragraph((text, "dim"))

    def _show_source(self, problem: Problem, style: str) -> None:
        number = str(problem.line)
        gutter = " " * INDENT + number + " | "
        width = (self._console.width if self._wraps else WIDTH + len(gutter)) - len(gutter)
        excerpt = self._files.excerpt(problem.file, problem.line, problem.column, width)
        if excerpt:
            self.line((gutter, "dim"), (excerpt.text, ""))
            caret = " " * excerpt.start + "^" * excerpt.length
            self.line((" " * (INDENT + len(number)) + " | ", "dim"), (caret, style))

    def _paragraph(self, *parts: tuple[str, str]) -> None:
        """Print an indented text, whose lines a terminal breaks between words."""
        from rich.text import Text

        text = Text.assemble(*parts)
        lines = text.wrap(self._console, max(self._console.width - INDENT, 1)) if self._wraps else [text]
        for line in lines:
            self._print(Text(" " * INDENT).append_text(line))

    def line(self, *parts: tuple[str, str]) -> None:
        from rich.text import Text

        self._print(Text.assemble(*parts))

    def _print(self, line: Text) -> None:
        line.rstrip()
        self._console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
