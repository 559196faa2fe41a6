"""What a shell completes, by argcomplete: commands, options, names of bundled specs, files and folders.

The shell runs the command with `_ARGCOMPLETE` set, as `register-python-argcomplete encapkeras` tells it to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from encapkeras.cli.arguments.parser import Parser

SPECS = ("spec", "specs", "paths", "name", "diff")  # as which they arrive
FOLDERS = ("run_dir", "runs", "folder", "resume", "data_root", "root")


def answer_shell(parser: Parser) -> None:
    """Say what may follow and end the process, if a shell asks."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    from argcomplete import autocomplete
    from argcomplete.completers import DirectoriesCompleter

    completers: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(SPECS, _specs),
        **dict.fromkeys(FOLDERS, DirectoriesCompleter()),
        "model": _models,
        "run_on": lambda **_: ["cpu", "cuda", "mps"],
    }
    _attach(parser, completers)
    autocomplete(parser, always_complete_options=False)  # only behind a dash


def _specs(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    from encapkeras.spec.bundled import bundled_names

    files = FilesCompleter(("yaml", "yml", "json"))(prefix)
    return [*(name for name in bundled_names() if name.startswith(prefix)), *files]


def _models(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    from encapkeras.packing.zoo import zoo_models

    return [*(name for name in zoo_models() if name.startswith(prefix)), *FilesCompleter(("keras",))(prefix)]


def _attach(parser: Parser, completers: dict[str, Callable[..., Any]]) -> None:
    for argument in parser.arguments:
        if argument.dest in completers and not argument.choices:
            argument.completer = completers[argument.dest]  # type: ignore[attr-defined]  # where argcomplete looks
    for command in parser.commands.values():
        _attach(command, completers)
