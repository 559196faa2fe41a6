"""Commands and options that do not exist, and what was probably meant."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from encapkeras.cli.arguments.parser import Parser
from encapkeras.cli.arguments.spec_arguments import SETTING, SPECS
from encapkeras.errors import ArgumentError, nearest, printable, suggest
from encapkeras.text import quoted


def check_words(parser: Parser, words: Sequence[str]) -> Parser:
    """Return the parser of the command that is named.

    What takes commands has no options with values, so that a word there is always meant as a command.

    Raises:
        ArgumentError: There is no such command or option. This comes before argparse asks for what else is missing.
    """
    for word, following in pairwise([*words, ""]):
        if word == "--":
            break
        if re.match(r"-[^\d.]", word):  # neither a number nor `-`, which is standard output
            name, _, value = word.partition("=")
            if not _is_option(parser, name):
                hint = _hint(parser, name.strip("-"), value or following)
                raise ArgumentError(f"{parser.prog} has no option {printable(name)}. {hint}")
        elif parser.commands:
            if word not in parser.commands:
                raise ArgumentError(_not_a_command(parser, printable(word)))
            parser = parser.commands[word]
    return parser


def check_extra(parser: Parser, extra: Sequence[str]) -> None:
    """End with an error if a command was given more than it takes."""
    if not extra:
        return
    if "=" in extra[0] and _settings(parser):
        parser.error(f"'{extra[0]}' is one argument too many. Did you mean --set {quoted(extra[0])}?")
    parser.error(f"'{extra[0]}' is one argument too many")


def _is_option(parser: Parser, name: str) -> bool:
    """Return whether argparse takes it as one: its beginning, too, and a short one with its value."""
    if f"-{name}" in parser.options:  # -set, which is meant as a long one
        return False
    is_short = name[1] != "-" and name[:2] in parser.options
    return is_short or " " in name or any(option.startswith(name) for option in parser.options)


def _hint(parser: Parser, name: str, value: str) -> str:
    option = f"--{name.replace('_', '-')}"
    if option in parser.options:
        return f"Did you mean {option}?"
    settings = _settings(parser)
    key = name.replace("-", "_")
    near = nearest(name, [option.strip("-") for option in parser.options])
    if near and key not in settings:
        return f"Did you mean --{near}?"
    meant = nearest(key, settings)
    if meant:
        given = value if value and not value.startswith("-") else "VALUE"
        return f"Settings of the spec are changed with --set: --set {quoted(printable(f'{settings[meant]}={given}'))}"
    if settings:
        return "Settings of the spec are changed with --set, for example --set train.epochs=3"
    return f"{parser.prog} --help explains all options."


def _settings(parser: Parser) -> Mapping[str, str]:
    """Return the paths of the settings that `--set` changes, by their keys; read from the schema, which is quick."""
    changes = parser.options.get("--set")
    if changes is None or changes.metavar != SETTING:  # or it changes only places
        return {}
    from encapkeras.spec.bundled import SCHEMA, bundled_specs

    sections = json.loads((bundled_specs() / SCHEMA).read_text("utf-8"))["properties"]
    paths = {key: f"{name}.{key}" for name in ("data", "train") for key in sections[name]["properties"]}
    return {**paths, **dict.fromkeys(("learning_rate", "lr"), "train.optimizer.learning_rate")}


def _not_a_command(parser: Parser, word: str) -> str:
    if "train" in parser.commands:
        from encapkeras.spec.bundled import bundled_names

        if word.endswith(SPECS) or word in bundled_names():
            return f"'{word}' is a spec, not a command. To train it: encapkeras train {quoted(word)}"
        if os.path.isfile(os.path.join(word, "environment.json")):
            return f"'{word}' is a run, not a command. To measure it again: encapkeras evaluate {quoted(word)}"
    return f"'{word}' is not a command. {suggest(word, parser.commands)}"
