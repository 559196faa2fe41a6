"""`encapkeras check PATH ...`: finds all errors of specs, wrong shapes included, without making weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from encapkeras.cli.arguments.spec_arguments import add_overrides, add_plugins
from encapkeras.cli.arguments.spec_search import is_folder, search
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.errors import Problem, SpecError, printable
from encapkeras.text import counted

MOST_NAMED = 5  # specs with the same error that are named
EXAMPLES = (
    "encapkeras check mine.yaml",
    "encapkeras check specs/ --format json",
    "encapkeras check quickstart --set vars.types=16",
)
PAGE = "check.md"


@dataclass(frozen=True)
class Outcome:
    """What was found in one spec."""

    file: str  # as the user named it
    problems: Sequence[Problem]  # its errors or, if there are none, its warnings
    nodes: int | None = None  # None after errors
    parameters: int | None = None  # how many numbers training changes; None after errors
    variants: int = 0  # networks of its sweep
    summary: str = ""  # how many errors, in words

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return self.nodes is not None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="YAML or JSON files, names of bundled specs, or folders, where every file with the key 'spec' is checked",
    )
    add_overrides(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (%(default)s)")
    add_plugins(parser)


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec that is named alone, with its overrides: of several, and as JSON, all is printed at the end."""
    alone = len(arguments.paths) == 1 and arguments.format == "text" and not is_folder(arguments.paths[0])
    return [(arguments.paths[0], arguments.overrides)] if alone else []


def run(arguments: argparse.Namespace) -> int:
    """Check the specs and print how large their networks are; return 2 if there are errors."""
    found = search(arguments.paths)
    outcomes = (_examine(file, arguments.overrides) for file in found.specs)
    if arguments.format == "json":
        done = list(outcomes)
        print(json.dumps(_as_data(done), indent=2))
    else:
        several = arguments.paths != found.specs or len(found.specs) > 1
        done = _report(outcomes, several)
        if several:
            print(_summary(done, found.skipped))
    return 0 if all(outcome.ok for outcome in done) else 2


def _examine(file: str, overrides: Sequence[str]) -> Outcome:
    from encapkeras.model.examine import examine_spec
    from encapkeras.spec.reachable import reached

    try:
        examined = examine_spec(file, overrides)
    except SpecError as error:
        return Outcome(file, error.problems, summary=error.summary)
    spec, graph = examined.spec, examined.graph
    nodes = reached(spec)
    layers = [*(graph.layers[name] for name in nodes), *graph.side_losses.values()]
    parameters = sum(math.prod(weight.shape) for layer in layers for weight in layer.trainable_weights)
    warnings = [warning for each in (spec, *(v.spec for v in examined.variants)) for warning in each.warnings]
    return Outcome(file, list(dict.fromkeys(warnings)), len(nodes), parameters, len(examined.variants))


def _report(outcomes: Iterable[Outcome], several: bool) -> list[Outcome]:
    """Print each outcome as soon as it is known, and all errors at the end, each once however many specs have it."""
    done = []
    warned: set[Problem] = set()
    for outcome in outcomes:
        done.append(outcome)
        if outcome.ok:
            sweep = f", and a sweep of {counted(outcome.variants, 'network')}" if outcome.variants else ""
            size = f"{counted(outcome.nodes or 0, 'node')}, {outcome.parameters:,} parameters"
            print(f"{printable(outcome.file)}: ok, {size}{sweep}")
        elif several:
            print(f"{printable(outcome.file)}: {outcome.summary}")
        sys.stdout.flush()  # before what goes to stderr, wherever both end up
        if outcome.ok:
            new = {_essence(problem): problem for problem in outcome.problems}
            print_problems([problem for essence, problem in new.items() if essence not in warned])
            warned |= set(new)
    errors = _distinct(done, "error")
    if errors:
        named = {problem: _broken(problem, specs) for problem, specs in errors.items()} if several else {}
        print_problems(list(errors), f"{counted(len(errors), 'error')} found" if several else done[0].summary, named)
    return done


def _distinct(outcomes: Sequence[Outcome], severity: str) -> dict[Problem, list[str]]:
    """Return the problems of one severity, sorted by place, with the specs that each is in: specs may share a base."""
    first: dict[Problem, Problem] = {}
    specs: dict[Problem, list[str]] = {}
    for outcome in outcomes:
        for problem in (problem for problem in outcome.problems if problem.severity == severity):
            kept = first.setdefault(_essence(problem), problem)
            named = specs.setdefault(kept, [])
            if outcome.file not in named:
                named.append(outcome.file)
    return dict(sorted(specs.items(), key=lambda item: (item[0].file, item[0].line, item[0].column)))


def _essence(problem: Problem) -> Problem:
    """Return what makes a problem the same in two specs: the shapes that lead to it, and its row, may differ."""
    return dataclasses.replace(problem, note="", trace="")


def _broken(problem: Problem, specs: Sequence[str]) -> str:
    """Return which specs an error is in, unless its file says it."""
    names = [printable(spec) for spec in specs]
    if names == [problem.file]:
        return ""
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"breaks {', '.join(names[:MOST_NAMED])}{rest}"


def _summary(outcomes: Sequence[Outcome], skipped: int) -> str:
    broken = sum(not outcome.ok for outcome in outcomes)
    warnings = len(_distinct(outcomes, "warning"))
    parts = [f"{len(outcomes) - broken} ok", *([f"{broken} with errors"] if broken else [])]
    parts += [counted(warnings, "warning")] if warnings else []
    parts += [f"{counted(skipped, 'file')} without the key 'spec' skipped"] if skipped else []
    return f"{counted(len(outcomes), 'spec')}: {', '.join(parts)}"


def _as_data(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    files = [
        {
            "file": outcome.file,
            "ok": outcome.ok,
            "nodes": outcome.nodes,
            "parameters": outcome.parameters,
            "problems": [{"severity": problem.severity, **dataclasses.asdict(problem)} for problem in outcome.problems],
        }
        for outcome in outcomes
    ]
    counts = {f"{severity}s": len(_distinct(outcomes, severity)) for severity in ("error", "warning")}
    return {"files": files, **counts}
