"""`encapkeras check PATH ...`: finds all mistakes of specs, wrong shapes included, without making weights."""

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
from encapkeras.cli.arguments.spec_search import search
from encapkeras.cli.terminal.spec_errors import counted, print_mistakes, print_warnings
from encapkeras.errors import Problem, SpecError, printable

MOST_NAMED = 5  # specs that one problem is in, and that are named


@dataclass(frozen=True)
class Outcome:
    """What was found in one spec.

    Args:
        file: The spec, as the user named it.
        problems: Its mistakes or, if there are none, its warnings.
        nodes: How many nodes the network has; None after mistakes.
        parameters: How many numbers training changes; None after mistakes.
        variants: How many networks its sweep makes.
        summary: How many mistakes there are, in words.
    """

    file: str
    problems: Sequence[Problem]
    nodes: int | None = None
    parameters: int | None = None
    variants: int = 0
    summary: str = ""

    @property
    def ok(self) -> bool:
        """Whether there are no mistakes."""
        return self.nodes is not None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="YAML or JSON files, names of bundled specs, or folders, in which every file with the key 'spec' is one",
    )
    add_overrides(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (%(default)s)")
    add_plugins(parser)


def run(arguments: argparse.Namespace) -> int:
    """Checks the specs and says how large their networks are.

    Returns:
        0; 2 if there are mistakes.
    """
    found = search(arguments.paths)
    outcomes = (_examined(file, arguments.overrides) for file in found.specs)
    if arguments.format == "json":
        done = list(outcomes)
        print(json.dumps(_as_data(done), indent=2))
    else:
        several = arguments.paths != found.specs or len(found.specs) > 1
        done = _told(outcomes, several)
        if several:
            print(_summary(done, found.skipped))
    return 0 if all(outcome.ok for outcome in done) else 2


def _examined(file: str, overrides: Sequence[str]) -> Outcome:
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


def _told(outcomes: Iterable[Outcome], several: bool) -> list[Outcome]:
    """Prints each outcome when it is known, and all mistakes at the end, each once whatever number of specs has it."""
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
        sys.stdout.flush()  # before the words on stderr, wherever both go
        if outcome.ok:
            new = {_essence(problem): problem for problem in outcome.problems}
            print_warnings([problem for essence, problem in new.items() if essence not in warned])
            warned |= set(new)
    mistakes = _distinct(done, "error")
    if mistakes:
        named = {problem: _broken(problem, specs) for problem, specs in mistakes.items()} if several else {}
        summary = f"{counted(len(mistakes), 'error')} found" if several else done[0].summary
        print_mistakes(list(mistakes), summary, named)
    return done


def _distinct(outcomes: Sequence[Outcome], severity: str) -> dict[Problem, list[str]]:
    """The problems of one severity, sorted by place, with the specs that each is in: a base may be that of many."""
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
    """What makes a problem the same in two specs: the shapes that lead to it may differ, and rows be others."""
    return dataclasses.replace(problem, note="", trace="")


def _broken(problem: Problem, specs: Sequence[str]) -> str:
    """Which specs a mistake is in, unless that is plain."""
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
