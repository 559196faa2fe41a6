"""The section `sweep`: what it changes in the spec, network by network.

A network of a sweep is a row of `list` with a combination of `grid`; of `ranges` there are two, with all lowest and
with all highest values. Its values take the place of others as those of `--set` do, and keep their places in the file,
so that an error in one is reported there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from encapkeras.errors import Problem, printable
from encapkeras.spec.inherit import Change, cleaned, kept_entries, longest_key, override
from encapkeras.spec.parse import OWN_KEYS
from encapkeras.spec.report import Report
from encapkeras.spec.sections import RANGE, SWEEP, SweepSection
from encapkeras.spec.tree import Tree
from encapkeras.spec.variables import Scope, substitute
from encapkeras.text import cut

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

LARGEST = 1000  # networks: more is a slip in a grid
LONGEST_VALUE = 40  # characters of a value in a label
LONGEST_LABEL = 120
_RANGES = "sweep.ranges."

# What no sweep changes, by the path or its first part, and why.
_NOT_SWEPT = {
    "train.seed": "the seeds are in 'sweep.seeds', or in --seeds",
    "sweep": "a sweep cannot change itself",
    "extends": "it is read before the sweep",
    "spec": "it is the version of the format",
    "source": "it changes nothing in the network",
}


class Variant(NamedTuple):
    """A network of a sweep: its label, the swept values by path (None for what it lacks), and its spec."""

    label: str
    values: Mapping[str, Any]
    spec: Spec


@dataclass(frozen=True)
class Sweep:
    """A sweep as written; `section` is None after an error; `rows` are changes of `list`, `axes` those of `grid`."""

    tree: Tree
    section: SweepSection | None
    rows: Sequence[Sequence[Change]]
    axes: Sequence[Sequence[Change]]

    @property
    def networks(self) -> Iterator[list[Change]]:
        """What each network changes: each row with each combination of the grid, whose last path changes fastest."""
        return ([*row, *axes] for row in self.rows for axes in itertools.product(*self.axes))

    @property
    def paths(self) -> list[str]:
        """All that it sets, except for names, which are part of the labels anyway."""
        paths = dict.fromkeys(change.path for changes in (*self.rows, *self.axes) for change in changes)
        return [path for path in paths if path != "name"]


def read_sweep(written: Tree, scope: Scope, report: Report) -> Sweep | None:
    """The sweep of a merged spec, which keeps its nulls; None if it has none."""
    tree = written.entries().get("sweep")
    if tree is None or not isinstance(tree.value, dict):
        return None  # what is neither a map nor null is an error of the top level
    entries = kept_entries(tree)
    if "seeds" in entries:
        entries["seeds"] = substitute(entries["seeds"], scope, report)
    if "grid" in entries and isinstance(entries["grid"].value, dict):
        axes = kept_entries(entries["grid"]).items()
        known = {path: axis if isinstance(axis.value, list) else substitute(axis, scope, report) for path, axis in axes}
        entries["grid"] = entries["grid"].with_value(known)
    if "ranges" in entries:
        entries["ranges"] = substitute(cleaned(entries["ranges"]), scope, report)
    tree = tree.with_value(entries)
    substitute(tree, scope, Report())  # only to mark variables as read; its networks report what is wrong
    problems = report.add_values(SWEEP, tree)
    if not problems and not {"grid", "list", "ranges"} & set(entries):
        report.add_missing(tree, "a sweep needs a 'grid', a 'list' or 'ranges' of what it changes")
    section = None if problems or any(tree.failures()) else SWEEP.convert(tree.plain())
    rows = [_row(row, report) for row in _elements(entries.get("list"))] or [[]]
    if "ranges" in entries:
        ends = _ends(entries["ranges"], rows, report)
        rows = [[*row, *end] for row in rows for end in ends]
    grid = _axes(entries.get("grid"), rows, report)
    count = len(rows) * math.prod(map(len, grid))
    if count > LARGEST:
        report.add(tree, f"makes {count:,} networks; at most {LARGEST:,} are trained side by side")
        rows = []
    return Sweep(tree, section, rows, grid)


def _axes(grid: Tree | None, rows: Sequence[Sequence[Change]], report: Report) -> list[list[Change]]:
    """The changes of each path of a grid, of those that can be swept."""
    where = {change.path: "the 'list'" for row in rows for change in row}
    where |= {change.path: "'ranges'" for row in rows for change in row if change.value.path.startswith(_RANGES)}
    axes = []
    for path, axis in grid.entries().items() if grid else ():
        if path in where:
            report.add(axis, f"'{path}' is in {where[path]} too; give it in one of them")
            continue
        # The values of a path have its place: what is wrong with the path is wrong with all of them, and reported once.
        values = [Change(path, replace(axis, value=value.value)) for value in _elements(axis)]
        axes.append([change for change in values if _may_be_swept(change, report)])
    return [axis for axis in axes if axis]


def _ends(ranges: Tree, rows: Sequence[Sequence[Change]], report: Report) -> list[list[Change]]:
    """The changes to the lowest values of all ranges, and to the highest: the networks by which ranges are checked."""
    in_rows = {change.path for row in rows for change in row}
    lowest, highest = [], []
    for path, each in ranges.entries().items():
        if RANGE.problems(each.plain()):
            continue  # reported already
        # Both ends have the place of the range, as the values of a grid have that of their path.
        low, high = (Change(path, replace(each, value=each.entries()[end].value)) for end in ("low", "high"))
        if path in in_rows:
            report.add(each, f"'{path}' is in the 'list' too; give it in one of them")
        elif _may_be_swept(low, report):
            lowest.append(low)
            highest.append(high)
    return [lowest, highest] if lowest else [[]]


def _elements(tree: Tree | None) -> list[Tree]:
    return tree.value if tree is not None and isinstance(tree.value, list) else []


def _row(row: Tree, report: Report) -> list[Change]:
    changes = [Change(path, value) for path, value in row.entries().items() if not path.startswith(OWN_KEYS)]
    return [change for change in changes if _may_be_swept(change, report)]


def _may_be_swept(change: Change, report: Report) -> bool:
    path = "train.seed" if change.path == "train" and "seed" in change.value.entries() else change.path
    reason = _NOT_SWEPT.get(path) or _NOT_SWEPT.get(path.partition(".")[0])
    if reason:
        report.add(change.value, f"'{path}' is not for a sweep: {reason}")
    return reason is None


def read_variants(
    sweep: Sweep, written: Tree, report: Report, read: Callable[[Tree, Report], Spec | None]
) -> list[Variant]:
    """The networks of a sweep, checked by `read`; each error once, and none where the spec itself has one."""
    without_sweep = written.with_value({key: entry for key, entry in written.entries().items() if key != "sweep"})
    short = short_paths(sweep.paths)
    problems = _VariantProblems(report)
    variants: list[Variant] = []
    first: dict[str, str] = {}
    twice: list[str] = []
    for changes in sweep.networks:
        values = {short[change.path]: change.value.plain() for change in changes if change.path != "name"}
        what = cut(" ".join(f"{name}={value_text(value)}" for name, value in values.items()), LONGEST_LABEL)
        own = Report()
        own.whole = report.whole
        tree = override(without_sweep, changes, own)
        spec = read(tree, own)
        problems.add(what, own)
        if spec is None:
            continue
        meaning = json.dumps(spec.resolved, sort_keys=True)
        if meaning in first:
            twice.append(f"by '{first[meaning]}' and by '{what}'")
            continue
        first[meaning] = what
        variants.append(Variant(what, _values(sweep.paths, changes, spec, tree), replace(spec, warnings=())))
    problems.report()
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        report.add(sweep.tree, f"makes the same network twice, {twice[0]}{more}: equal networks show nothing")
    return variants


def _values(paths: Iterable[str], changes: Sequence[Change], spec: Spec, tree: Tree) -> dict[str, Any]:
    """The values of a network: what its row does not set is as in its spec."""
    own = {change.path: change.value.plain() for change in changes}
    others = [path for path in paths if path not in own]
    written = tree.plain() if others else {}
    found = {path: _found({**written, **spec.resolved}, path) for path in others}
    return {path: own[path] if path in own else found[path] for path in paths}


def _found(value: Any, path: str) -> Any:
    if not path:
        return value
    if isinstance(value, dict):
        key = longest_key(path, value)
        return _found(value.get(key), path[len(key) + 1 :])
    step, _, rest = path.partition(".")
    return _found(value[int(step)], rest) if isinstance(value, list) and step.isdecimal() else None


def short_paths(paths: Sequence[str]) -> dict[str, str]:
    """The shortest end of each path that differs from all others and is more than a number."""
    return {path: _shortest_end(path, [other for other in paths if other != path]) for path in paths}


def _shortest_end(path: str, others: Sequence[str]) -> str:
    parts = path.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1) if not parts[start].isdecimal()]
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), path)


def value_text(value: Any) -> str:
    """A value as labels and tables show it, on one line and cut to a readable length."""
    return cut(printable(_flow(value)), LONGEST_VALUE)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


class _VariantProblems:
    """What is wrong in the networks of a sweep, each problem once, and none that follows from the spec itself."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known = {_place(problem) for problem in _all(report)}
        self._first: dict[tuple[Any, ...], str] = {}
        self._found: dict[Problem, None] = {}
        self._others: dict[tuple[Any, ...], int] = {}

    def add(self, network: str, own: Report) -> None:
        places = set()
        for problem in _all(own):
            place = _place(problem)
            # A network need not read the variables that others read.
            unread = problem.severity == "warning" and problem.path.startswith("vars.")
            if place in self._known or unread:
                continue
            if problem.path.startswith("sweep."):
                self._found.setdefault(problem)
            elif self._first.setdefault(place, network) == network:
                self._found.setdefault(problem)
            else:
                places.add(place)
        for place in places:
            self._others[place] = self._others.get(place, 0) + 1

    def report(self) -> None:
        for problem in self._found:
            place = _place(problem)
            if place in self._first:
                others = self._others.get(place, 0)
                more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
                problem = replace(problem, note=f"{problem.note} (with {self._first[place]}{more})".strip())
            self._report.take([problem])


def _all(report: Report) -> list[Problem]:
    return [*report.problems(), *report.warnings()]


def _place(problem: Problem) -> tuple[Any, ...]:
    return problem.file, problem.line, problem.column, problem.path, problem.severity
