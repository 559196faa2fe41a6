"""The list of errors and warnings found in a spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from encapkeras.errors import Problem, SpecError, nearest
from encapkeras.spec.kept import kept_from_base, without_hint
from encapkeras.spec.odd_characters import described, first_odd
from encapkeras.spec.tree import Tree, child_path
from encapkeras.validation import Arguments, Checker, ValueProblem

MOST_VALUES = 150_000  # a spec of 10,000 nodes has about 100,000
MOST_PROBLEMS = 100  # nobody reads more, and each may take a search for the nearest name

_OWN_NAMES = ("model.nodes.", "blocks.", "losses.", "vars.", "sweep.")  # below which keys are not those of sections

Path = tuple[str | int, ...]


class Report:
    """The errors and warnings found so far. The same in several rows of a `repeat`, or of one variable, counts once."""

    def __init__(self) -> None:
        self.whole = True  # whether all bases could be read; if not, what seems to be missing may be there
        self._notes: dict[Problem, list[str]] = {}
        self._causes: dict[Problem, tuple[str, str]] = {}
        self._traces: dict[Problem, str] = {}
        self._values = 0
        self._odd: dict[tuple[str, str], tuple[int, int, str]] = {}

    def note_odd(self, file: str, path: str, line: int, column: int, character: str) -> None:
        """Note where a value has a character that is not what it looks like; errors in the value will say so."""
        self._odd[file, path] = (line, column, character)

    def count(self, at: Tree, values: int = 1) -> None:
        """Count values that are read or made of others: a small text can stand for more than any memory holds."""
        self._values += values
        if self._values > MOST_VALUES:
            text = f"the spec holds more than {MOST_VALUES:,} values here, with what rows, variables and blocks make"
            self.add(at, text)
            self.raise_if_any()

    def add(self, at: Tree, message: str, *, path: str | None = None, trace: str = "") -> None:
        """Add an error, which may show another `path` and the `trace` of shapes; raise all once there are too many."""
        if at.guessed:
            return
        if at.file == "--set" and "must be a string" in message:
            message += f". A text that YAML reads as something else needs quotes: --set '{at.path}=\"...\"'"
        line, column, odd = self._odd_in(at, message)
        if odd:
            message += f"{'' if message.endswith(('.', '?')) else '.'} In it, {described(odd)}."
        place = (at.file, line, column, at.path if path is None else path)
        problem = Problem(*place, f"{message} ({at.origin})" if at.origin else message)
        if at.origin and not trace:
            # One cause for all uses of a variable: the place at the end of the origin is where it is written.
            self._causes[problem] = (message, at.origin.rpartition(" from ")[2])
        if trace:
            self._traces.setdefault(problem, trace)
        self._note(problem, at.note)

    def _odd_in(self, at: Tree, message: str) -> tuple[int, int, str]:
        """The place of a value, or of a character in it that is not what it looks like, and that; else empty."""
        key = at.path.rpartition(".")[2]
        if message.startswith(f"'{key}' is not "):  # it is about the key, which `--set` gave
            place = first_odd(key, key=True)
            return at.line, at.column, "" if place is None else key[place]
        inside = [key for key in self._odd if key[0] == at.file and key[1].startswith(f"{at.path}.")]
        found = self._odd.get((at.file, at.path)) or (
            self._odd[inside[0]] if inside and "received" in message else None
        )
        if found:
            return found
        place = first_odd(at.value) if isinstance(at.value, str) and not at.line else None
        return at.line, at.column, "" if place is None else at.value[place]

    def warn(self, at: Tree, message: str) -> None:
        """Add a warning about what can be built but is probably not meant."""
        self._note(Problem(at.file, at.line, at.column, at.path, message, severity="warning"), at.note)

    def warn_if_renamed(self, at: Tree, name: str, new_name: str) -> None:
        """Warn about a former name of a layer, loss, data set or setting."""
        if name != new_name:
            self.warn(at, f"'{name}' is now called '{new_name}'. Write '{new_name}'.")

    def _note(self, problem: Problem, note: str) -> None:
        notes = self._notes.setdefault(problem, [])
        if note not in notes:
            notes.append(note)
        if problem.severity == "error" and len(self.problems()) >= MOST_PROBLEMS:
            raise SpecError(self.problems(), complete=False)

    def add_missing(self, at: Tree, message: str, *, path: str | None = None) -> None:
        """Add the error that something is missing, unless it may be in a part that could not be read."""
        if self.whole:
            self.add(at, message, path=path)

    def add_values(self, checker: Checker, tree: Tree, *, partly: bool = False) -> list[ValueProblem]:
        """Add, and return, all that the checker finds wrong in a value; `partly` if keys may be missing."""
        failed = {failure.path for failure in tree.failures()}
        problems = checker.problems(tree.plain())
        unknown = [problem.path for problem in problems if problem.kind == "unknown"]
        found = []
        for problem in problems:
            at, rest = _descend(tree, problem.path)
            path = at.path
            for step in rest:
                path = child_path(path, step)
            depends_on_failed = not rest and problem.kind == "value" and any(at.failures())
            missing = problem.kind == "missing"
            if depends_on_failed or (missing and (path in failed or (partly and len(problem.path) == 1))):
                continue
            around = _descend(tree, problem.path[:-1])[0]
            kept = kept_from_base(around, str(problem.path[-1]), problem.text) if problem.kind == "unknown" else None
            if kept:
                self.add(kept.at, kept.text, path=path)
            elif problem.kind != "missing":
                self.add(at, _with_hint(problem, path, at), path=path)
            elif not _is_misspelt(problem.path, unknown):
                self.add_missing(at, problem.text)
            found.append(problem)
        return found

    def add_unknown_nulls(self, checker: Checker, tree: Tree) -> None:
        """Add an error for each unknown key whose value is `null` and has deleted nothing: it is a slip."""
        for problem in checker.problems(tree.plain()) if isinstance(tree.value, dict) else ():
            at, rest = _descend(tree, problem.path)
            is_own = str(problem.path[-1]).startswith("x-") if problem.path else True
            if problem.kind == "unknown" and not (rest or is_own) and at.value is None and not at.deletes:
                self.add(at, _with_hint(problem, at.path, at))

    def as_meant(self, tree: Tree, arguments: Arguments, others: Collection[str] = ()) -> dict[str, Tree]:
        """The entries of a map that are arguments or `others`, misspelt keys as meant; an error for each other key."""
        entries = tree.entries()
        allowed = {*arguments.by_name, *others}
        meant = {key: entry for key, entry in entries.items() if key in allowed}
        for key, entry in entries.items():
            if key not in allowed and (kept := kept_from_base(tree, key, arguments.unknown(key, others))):
                self.add(kept.at, kept.text, path=entry.path)
            elif key not in allowed:
                self.add(entry, arguments.unknown(key, others))
                near = nearest(key, allowed)
                if near:
                    meant.setdefault(near, entry.as_guess())
        return meant

    def take(self, problems: Iterable[Problem]) -> None:
        """Add the errors and warnings of another report."""
        for problem in problems:
            self._note(dataclasses.replace(problem, note=""), problem.note)

    def problems(self) -> list[Problem]:
        """Return the errors, each once; of a wrong variable, the first place that uses it."""
        first: dict[tuple[str, str], Problem] = {}
        for problem, cause in self._causes.items():
            first[cause] = min(problem, first.get(cause, problem), key=_place)
        more = {problem for problem, cause in self._causes.items() if problem != first[cause]}
        return [problem for problem in self._noted(more) if problem.severity == "error"]

    def warnings(self) -> tuple[Problem, ...]:
        """Return the warnings, each once, sorted by place."""
        found = [problem for problem in self._noted() if problem.severity == "warning"]
        return tuple(sorted(found, key=_place))

    def _noted(self, without: Collection[Problem] = ()) -> list[Problem]:
        return [
            dataclasses.replace(
                problem, note=notes[0] if len(notes) == 1 else "", trace=self._traces.get(problem, problem.trace)
            )
            for problem, notes in self._notes.items()
            if problem not in without
        ]

    def raise_if_any(self) -> None:
        """Raise the errors, if there are any."""
        problems = self.problems()
        if problems:
            raise SpecError(problems)


def _with_hint(problem: ValueProblem, path: str, at: Tree) -> str:
    """The text of a problem; with the place that a key was meant for, or the map that a scalar was meant to be."""
    from encapkeras.spec.slips import as_map, places_of  # when something is wrong: it needs all sections

    if problem.kind == "unknown" and not path.startswith(_OWN_NAMES):
        elsewhere = places_of(str(problem.path[-1]))
        if not elsewhere or path.rpartition(".")[0] in [place.rpartition(".")[0] for place in elsewhere]:
            return problem.text
        return f"{without_hint(problem.text)} Did you mean {' or '.join(map(repr, elsewhere))}?"
    meant = as_map(path, at.value) if problem.kind == "value" else None
    if not meant:
        return problem.text
    ((key, value),) = meant.items()
    change = f"--set {path}.{key}={value}" if at.file == "--set" else f"'{path.rpartition('.')[2]}: {{{key}: {value}}}'"
    return f"{problem.text}. Did you mean {change}?"


def _place(problem: Problem) -> tuple[str, int, int, str]:
    return problem.file, problem.line, problem.column, problem.path


def _is_misspelt(missing: Path, unknown: Sequence[Path]) -> bool:
    """Return whether a missing key is there under an unknown name, which is the error to report."""
    return any(p[:-1] == missing[:-1] and nearest(str(p[-1]), [str(missing[-1])]) for p in unknown)


def _descend(tree: Tree, path: Path) -> tuple[Tree, Path]:
    """Return the deepest value on a path that is written down, and the rest of the path."""
    for position, step in enumerate(path):
        value = tree.value
        if isinstance(value, dict) and step in value:
            tree = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            tree = value[step]
        else:
            return tree, path[position:]
    return tree, ()
