"""`encapkeras search`: searches for the settings with which a network validates best."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence

from encapkeras.cli.arguments.device import add_device
from encapkeras.cli.arguments.spec_arguments import add_spec_arguments
from encapkeras.errors import ArgumentError
from encapkeras.text import quoted

EXAMPLES = (
    "encapkeras search search.yaml --trials 50",
    'encapkeras search quickstart --set "sweep.ranges={train.optimizer.learning_rate: {low: 1e-4, high: 1e-2}}"',
    "encapkeras search search.yaml --trials 100 --resume runs/search/2026-01-31_12-00-00",
)
PAGE = "search.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="how many trials the study has in the end (%(default)s)"
    )
    parser.add_argument("--no-pruning", action="store_true", help="train every trial to the end")
    add_device(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--run-dir", metavar="DIR", help="folder for the study and all runs (runs/search/DATE_TIME)")
    where.add_argument("--resume", metavar="DIR", help="continue the search in this folder")


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec, with its overrides."""
    return [(arguments.spec, arguments.overrides)]


def run(arguments: argparse.Namespace) -> int:
    """Search, print and write the table; return 2 if no trial could be trained."""
    if importlib.util.find_spec("optuna") is None:
        raise ArgumentError("a search needs Optuna: pip install 'encapkeras[search]'")
    from encapkeras.cli.terminal.table import print_table
    from encapkeras.search.report import best_settings, rows
    from encapkeras.search.search import search
    from encapkeras.search.space import Space
    from encapkeras.spec.load import load_spec
    from encapkeras.training.memory import keep_freed_memory

    keep_freed_memory()
    trials = search(
        arguments.spec,
        trials=arguments.trials,
        overrides=arguments.overrides,
        run_dir=arguments.resume or arguments.run_dir,
        resume=arguments.resume is not None,
        prune=not arguments.no_pruning,
    )
    space = Space.of(load_spec(arguments.spec, arguments.overrides))
    table = rows(trials, space)
    print()
    print_table({heading: [row[heading] for row in table] for heading in table[0]}, wraps="error")
    settings = best_settings(trials, space)
    if not settings:
        return 2
    given = [word for override in arguments.overrides for word in ("--set", override)]
    given += [word for plugin in arguments.plugins for word in ("--plugin", plugin)]
    words = " ".join(map(quoted, ["encapkeras", "train", arguments.spec, *given]))
    print(f"\nTrain the best one as a run of its own with:\n{words} {settings}")
    return 0
