"""What a training prints on stdout: on a terminal, in a notebook, or in a file."""

from __future__ import annotations

import datetime
import os
import sys

from rich.console import Console
from rich.text import Text


def stdout_console(quiet: bool = False) -> Console:
    """Return a console on stdout that shows texts as they are; under NO_COLOR without bold letters, too."""
    return Console(
        file=sys.stdout,  # named, as a progress bar stands in for it
        quiet=quiet,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        soft_wrap=True,
        markup=False,
        emoji=False,
        highlight=False,
    )


def say(console: Console, line: str | Text) -> None:
    """Print a line; rich would make HTML of each line in a notebook, and a widget of none."""
    if console.is_jupyter and not console.quiet:
        print(line, file=console.file)
    else:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def can_animate(console: Console) -> bool:
    """Return whether a bar can be drawn again and again: not in a file, whatever FORCE_COLOR says about colors."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def duration_text(seconds: float) -> str:
    """Return a time such as "1:02:03", or "2d 05h" from a day on.

    Examples:
        >>> duration_text(3723.4), duration_text(190800)
        ('1:02:03', '2d 05h')
    """
    days, rest = divmod(round(seconds), 86400)
    return f"{days}d {rest // 3600:02}h" if days else str(datetime.timedelta(seconds=rest))
