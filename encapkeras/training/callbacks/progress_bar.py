"""The moving part of `Progress`: a bar on the last line of a terminal, or one in a notebook."""

from __future__ import annotations

import atexit
import html
import sys
from typing import Protocol

import rich.progress
from rich.console import Console
from rich.table import Column

from encapkeras.training.output import can_animate

CELLS = 16  # of a bar


class Bar(Protocol):
    """A bar that is drawn again and again at one place."""

    def show(self, label: str, done: int, total: int | None, text: str) -> None:
        """Draw it."""

    def close(self) -> None:
        """Draw it no more."""


def make_bar(console: Console, widest_label: str) -> Bar | None:
    """Return the bar that fits the output; None where there can be none."""
    if console.quiet:
        return None
    if console.is_jupyter:
        return NotebookBar()
    return TerminalBar(console, widest_label) if can_animate(console) else None


class TerminalBar:
    """Rich's bar; it goes when it is closed."""

    def __init__(self, console: Console, widest_label: str) -> None:
        label = Column(min_width=len(widest_label), no_wrap=True)
        columns = (  # a narrow terminal cuts the last one
            rich.progress.TextColumn("{task.description}", markup=False, table_column=label),
            rich.progress.BarColumn(CELLS, table_column=Column(min_width=CELLS, no_wrap=True)),
            rich.progress.TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
        )
        to_terminal = sys.stderr.isatty()  # else what is written there would go to the terminal, not to its file
        self._bar = rich.progress.Progress(*columns, console=console, transient=True, redirect_stderr=to_terminal)
        self._task = self._bar.add_task("", total=None, text="")
        self._bar.start()
        atexit.register(self.close)  # it has hidden the cursor, and Keras says nothing to callbacks after an error

    def show(self, label: str, done: int, total: int | None, text: str) -> None:
        """See `Bar`."""
        self._bar.update(self._task, description=label, completed=done, total=total, text=text)

    def close(self) -> None:
        """See `Bar`."""
        atexit.unregister(self.close)
        self._bar.stop()


class NotebookBar:
    """An output of a notebook's cell that is replaced; it stays as it was last, without ipywidgets."""

    def __init__(self) -> None:
        display = sys.modules["IPython.display"].display  # loaded, as this is a notebook
        self._output = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, label: str, done: int, total: int | None, text: str) -> None:
        """See `Bar`."""
        part = min(done / total, 1.0) if total else 0.0
        full = round(CELLS * part)
        place = f' value="{part:.4f}"' if total else ""  # without one, it moves to and fro
        style = "white-space:pre; background:none"
        data = {
            "text/plain": f"{label} {'━' * full}{' ' * (CELLS - full)} {text}",
            # In <code>, text between dollar signs is no formula.
            "text/html": f'<div><code style="{style}">{html.escape(label)} </code><progress{place}></progress>'
            f'<code style="{style}"> {html.escape(text)}</code></div>',
        }
        self._output.update(data, raw=True)

    def close(self) -> None:
        """See `Bar`."""
