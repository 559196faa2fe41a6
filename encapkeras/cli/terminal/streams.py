"""What a command prints: nothing in it controls the terminal, and what cannot be written does not end the command."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

# Control characters but for tabs and line ends, those that change the direction of a text, and what is not UTF-8.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Output:
    """A stream with escapes for control characters; what it cannot write is dropped, and `failure` says why.

    Rich, whose texts we make printable before it adds colors to them, writes to `rich_proxied_file` instead.
    """

    def __init__(self, stream: TextIO, failure: OSError | None = None, escapes: bool = True) -> None:
        self._stream = stream
        self._closed = failure  # why nothing can be written, known before
        self._escapes = escapes
        self._failure: OSError | None = None
        self.rich_proxied_file = Output(stream, failure, escapes=False) if escapes else self

    @property
    def failure(self) -> OSError | None:
        """Why something could not be written; None if all was."""
        return self._failure or self.rich_proxied_file._failure

    def write(self, text: str) -> int:
        """Write a text."""
        if self._closed and text:
            self._failure = self._closed
        shown = _CONTROL.sub(_escaped, text) if self._escapes else text
        with self._kept():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with self._kept():
            self._stream.flush()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error
            with contextlib.suppress(OSError):  # later writes, and Python's own at the end, go nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[Output]:
    """Make stdout and stderr such streams, and print warnings for users as a line; give the first."""
    output, errors, as_python_does = _opened(1, sys.stdout), _opened(2, sys.stderr), warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], *place: Any) -> str:
        return f"warning: {message}\n" if category is UserWarning else as_python_does(message, category, *place)

    warnings.formatwarning = in_a_line  # type: ignore[assignment]  # mypy wants each argument by name
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            yield output
            output.flush()
            errors.flush()
    finally:
        warnings.formatwarning = as_python_does


def _opened(number: int, stream: TextIO | None) -> Output:
    if stream is None:  # closed by the caller: the next file that is opened would take its number, and get our output
        nowhere = open(os.devnull, "w", encoding="utf-8")  # as long as the process
        if nowhere.fileno() != number:
            os.dup2(nowhere.fileno(), number)
        return Output(nowhere, OSError(errno.EBADF, "it is closed"))
    if number == 1 and isinstance(stream, io.TextIOWrapper):
        # A terminal that lacks a character, such as ±, shows another. On stderr Python does that itself.
        stream.reconfigure(errors="replace")
    return Output(stream)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
