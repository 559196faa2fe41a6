"""`encapkeras compare`: trains several networks with several seeds each, and compares them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from encapkeras.cli.arguments.device import add_device
from encapkeras.cli.arguments.spec_arguments import add_overrides, add_plugins
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.errors import ArgumentError, Problem, SpecError

EXAMPLES = (
    "encapkeras compare encapnet_digits encapnet_ot_digits --seeds 3",
    "encapkeras compare sweep.yaml --run-dir runs/sweep",
    "encapkeras compare sweep.yaml --resume runs/sweep",
)
PAGE = "train.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "specs",
        metavar="SPEC",
        nargs="+",
        help="YAML or JSON files, or names of bundled specs; a spec with a sweep counts as all of its networks",
    )
    add_overrides(parser)
    add_plugins(parser)
    parser.add_argument(
        "--seeds",
        metavar="N",
        help="train each spec with the seeds 0 to N - 1, or with a list of seeds such as 0,5,7; '5,' is a list of one "
        "(the seeds of the sweep, or 3)",
    )
    parser.add_argument("--latex", action="store_true", help="also print the tables as LaTeX, as in comparison.tex")
    add_device(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--run-dir", metavar="DIR", help="folder for the table and all runs (runs/compare/DATE_TIME)")
    where.add_argument(
        "--resume", metavar="DIR", help="continue the comparison in this folder; its finished runs are reused"
    )


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The specs, each with its overrides."""
    return [(spec, arguments.overrides) for spec in arguments.specs]


def run(arguments: argparse.Namespace) -> int:
    """Train all, print and write the table; return 2 if a run failed."""
    seeds = None if arguments.seeds is None else _seeds(arguments.seeds)
    from encapkeras.comparison.compare import compare
    from encapkeras.training.memory import keep_freed_memory

    keep_freed_memory()
    _warn(arguments.specs, arguments.overrides)
    comparison = compare(
        arguments.specs,
        seeds,
        overrides=arguments.overrides,
        run_dir=arguments.resume or arguments.run_dir,
        resume=arguments.resume is not None,
    )
    if arguments.latex:
        print(comparison.as_latex(), end="")
    return 2 if comparison.failed else 0


def _warn(specs: Sequence[str], overrides: Sequence[str]) -> None:
    """Print the warnings of the specs; the comparison reports their errors, those of all at once."""
    from encapkeras.spec.load import load_spec

    found: dict[Problem, None] = {}
    for spec in specs:
        with contextlib.suppress(SpecError):
            found.update(dict.fromkeys(load_spec(spec, overrides).warnings))
    print_problems(list(found))


def _seeds(text: str) -> list[int]:
    from encapkeras.spec.sections import MOST_SEEDS
    from encapkeras.validation import shown

    words = [word.strip() for word in text.split(",")]
    is_list = len(words) > 1
    if is_list and not words[-1]:
        words.pop()
    if all(word.isdecimal() and len(word) <= 10 for word in words):  # the largest seed has ten digits
        numbers = [int(word) for word in words]
        if is_list and len(set(numbers)) == len(numbers):
            return numbers
        if not is_list and 0 < numbers[0] <= MOST_SEEDS:
            return list(range(numbers[0]))
    raise ArgumentError(
        f"--seeds must be how many, from 1 to {MOST_SEEDS}, or a list of distinct seeds from 0, such as 0,5,7 "
        f"('5,' is a list of one); received {shown(text)}"
    )
