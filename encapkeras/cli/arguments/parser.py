"""The parser of every command: its help ends with examples, its errors with one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from encapkeras.errors import printable

DEBUG = "--debug"
DOCS = Path(__file__).resolve().parents[3] / "docs"  # of a checkout


class Parser(argparse.ArgumentParser):
    """Commands are of this class too. It prints no colors, which Python 3.14 does, and which would be escaped."""

    def __init__(self, *, examples: Sequence[str], page: str, **options: Any) -> None:
        self.arguments: list[argparse.Action] = []  # options, and those that have a place
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.color = False
        self.examples = examples
        self.page = page
        self.commands: dict[str, Parser] = {}
        self.add_argument(DEBUG, action="store_true", default=argparse.SUPPRESS, help="show where an error arose")

    def is_script(self, script: str) -> None:
        """Be a script of Python's instead of a command, in the help and in messages."""
        self.examples = [example.replace(self.prog, f"python {script}") for example in self.examples]
        self.prog = script

    def add_subparsers(self, **options: Any) -> Any:
        """Return what adds commands, which are in `commands` from then on."""
        added = super().add_subparsers(**options)
        self.commands = added.choices
        return added

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Declare an argument, and keep it in `arguments`: argparse has no list of them that is documented."""
        return self._keep(super().add_argument(*names, **options))

    def add_mutually_exclusive_group(self, **options: Any) -> Any:
        """Return a group whose arguments are kept, too."""
        group = super().add_mutually_exclusive_group(**options)
        add = group.add_argument
        group.add_argument = lambda *names, **given: self._keep(add(*names, **given))  # type: ignore[method-assign]
        return group

    def _keep(self, argument: argparse.Action) -> argparse.Action:
        self.arguments.append(argument)
        return argument

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Every option by its name, long or short."""
        return {name: argument for argument in self.arguments for name in argument.option_strings}

    def format_help(self) -> str:
        """Return the help; what it ends with is found out only when somebody asks."""
        lines = "\n".join(f"  {example}" for example in self.examples)
        self.epilog = f"examples:\n{lines}\n\ndocumentation: {documentation(self.page)}"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """End with what is wrong and an example of what is right; with the help where only a command can be missing."""
        if self.commands:
            self.print_help(sys.stderr)
            self.exit(2)
        example = f"For example: {self.examples[0]}"
        self.exit(2, f"{printable(message)}\n{example}\n{self.prog} --help explains all arguments.\n")


def documentation(page: str) -> str:
    """Return where a page of the documentation is: on the project's site if it names one, else its file."""
    from importlib import metadata

    try:
        named = metadata.metadata("encapkeras").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        named = []
    site = dict(url.split(", ", 1) for url in named).get("Documentation")
    if site:
        return f"{site.rstrip('/')}/{page.removesuffix('.md')}.html"
    file = DOCS / page
    return str(file) if file.is_file() else f"docs/{page} in the repository of encapkeras"
