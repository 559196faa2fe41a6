"""Step 3: `$name` and `$(arithmetic)` become values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from encapkeras.errors import suggest
from encapkeras.spec.arithmetic import ExpressionError, compute
from encapkeras.spec.report import Report
from encapkeras.spec.tree import FAILED, Tree

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
LABELS = "labels"  # what a side loss calls them, and the spec
RESERVED = (LABELS,)  # never names of nodes and inputs
_REFERENCE = re.compile(r"\$(?:(?P<name>[A-Za-z_]\w*)|(?P<open>\())", re.ASCII)

_NO_NAMES: frozenset[str] = frozenset()

FACTS = ("classes", "height", "width", "channels")  # variables that a data set gives

LONGEST_TEXT = 1000  # characters of a text with variables in it
LARGEST_VALUE = 3000  # values in a variable that is a list or a map
DEEPEST = 100  # variables that need each other, and lists and maps in them; each is eight calls at most


class UnknownName(Exception):
    """A name, and the scope that does not know it."""


class FailedBefore(Exception):
    """A value is needed whose error has been reported."""


class Scope:
    """Names and their values, before those of the outer scope: of a row, then the spec's, then the data set's."""

    def __init__(self, values: Mapping[str, Tree], outer: Scope | None = None) -> None:
        self._values = dict(values)
        self._outer = outer
        self._names: tuple[frozenset[str], frozenset[str]] | None = None  # of the outer scope, and all

    def define(self, values: Mapping[str, Tree]) -> None:
        """Add names that were not known from the start."""
        self._values.update(values)
        self._names = None

    def lookup(self, name: str) -> Tree:
        """Return the value of a name, which is `FAILED` if its own error has been reported, or raise UnknownName."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._value(name)
            scope = scope._outer
        raise UnknownName(name, self)

    def _value(self, name: str) -> Tree:
        return self._values[name]

    def names(self) -> frozenset[str]:
        """Return all known names; kept, since thousands of errors may list thousands of names."""
        outer: frozenset[str] = self._outer.names() if self._outer else _NO_NAMES
        if self._names is None or self._names[0] is not outer:
            self._names = (outer, outer.union(self._values))
        return self._names[1]


class Variables(Scope):
    """The spec's `vars`; they may use each other, in any order."""

    def __init__(self, values: Mapping[str, Tree], outer: Scope, report: Report) -> None:
        super().__init__(values, outer)
        self._report = report
        self._done: dict[str, Tree] = {}
        self._open: list[str] = []
        self._read: set[str] = set()
        self._levels = 0  # of the open ones; each is a few calls

    def settle(self, values: Mapping[str, Tree]) -> None:
        """Add variables whose values are computed already."""
        self.define(values)
        self._done.update(values)

    def unread(self) -> list[str]:
        """Return the names that nothing has looked up so far."""
        return [name for name in self._values if name not in self._read]

    def compute_all(self) -> None:
        """Compute every variable, so that an error in an unused one is reported too."""
        for name, tree in self._values.items():
            if name not in self._done:
                self._done[name] = self._computed(name, tree)

    def _value(self, name: str) -> Tree:
        self._read.add(name)
        if name not in self._done:
            self._done[name] = self._computed(name, self._values[name])
        return self._done[name]

    def _computed(self, name: str, tree: Tree) -> Tree:
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._report.add(tree, f"the variables depend on each other in a cycle: {circle}")
            return tree.with_value(FAILED)
        levels = 1 + tree.depth()
        if self._levels + levels > DEEPEST:
            self._report.add(tree, f"the variables need each other more than {DEEPEST} deep, lists and maps counted")
            return tree.with_value(FAILED)
        self._open.append(name)
        self._levels += levels
        value = substitute(tree, self, self._report)
        self._open.pop()
        self._levels -= levels
        if value.size() > LARGEST_VALUE:
            self._report.add(tree, f"holds more than {LARGEST_VALUE} values")
            return tree.with_value(FAILED)
        return value


def check_variable_name(name: str, at: Tree, report: Report) -> None:
    """Report a name that cannot be written after a `$`."""
    if name == "previous":
        report.add(at, "'previous' is reserved: $previous means the row before")
    elif not NAME.fullmatch(name):
        report.add(at, f"'{name}' is not a valid variable name; allowed are letters, digits and '_', not a digit first")


def substitute(tree: Tree, scope: Scope, report: Report) -> Tree:
    """Return the tree with the values of variables in place of their names; a text with an error becomes `FAILED`."""
    if not isinstance(tree.value, str) or "$" not in tree.value:
        return tree.each(lambda child: substitute(child, scope, report))
    value = tree.with_value(substitute_text(tree.value, tree, scope, report))
    if value.value is not FAILED:
        value.origin = _origin(tree.value, scope)
    if isinstance(value.value, dict | list):
        report.count(value, value.size())
    return value


def _origin(text: str, scope: Scope) -> str:
    """Return where the value of a text is written that is one name and nothing else; empty for other texts."""
    name = _REFERENCE.fullmatch(text)
    if not name or not name["name"]:
        return ""
    given = scope.lookup(name["name"])
    return f"{text} from {given.origin or given.place}"


def substitute_text(text: str, at: Tree, scope: Scope, report: Report) -> Any:
    """Return a text with variables' values, or `FAILED` after an error; one reference alone keeps its value's type."""
    pieces: list[Any] = []
    position = 0
    while match := _REFERENCE.search(text, position):
        end = match.end() if match["name"] else _closing(text, match.end())
        if end is None:
            report.add(at, f"'{text[match.start() :]}' lacks its closing parenthesis")
            return FAILED
        pieces.append(text[position : match.start()])
        inner = text[match.end() : end - 1]
        value = _named(match["name"], at, scope, report) if match["name"] else _computed(inner, at, scope, report)
        if value is FAILED:
            return FAILED
        pieces.append(value)
        position = end
    pieces.append(text[position:])
    if len(pieces) == 3 and pieces[0] == pieces[2] == "":
        return pieces[1]
    if any(isinstance(value, dict | list) for value in pieces[1::2]):
        report.add(at, f"'{text}': a list or a map cannot be part of a longer text")
        return FAILED
    result = "".join(_written(piece) for piece in pieces)
    if len(result) > LONGEST_TEXT:
        report.add(at, f"becomes a text of more than {LONGEST_TEXT} characters")
        return FAILED
    return result


def _closing(text: str, start: int) -> int | None:
    """Return the position after the parenthesis that closes the one before `start`."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return None


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(name: str, at: Tree, scope: Scope, report: Report) -> Any:
    try:
        return scope.lookup(name).value
    except UnknownName as error:
        report.add_missing(at, _unknown(error))
        return FAILED


def _unknown(error: UnknownName) -> str:
    name, known = error.args[0], error.args[1].names()
    if name == "previous":
        return "'$previous' means the row before and is allowed only in the 'inputs' of a node with 'repeat'"
    if name in FACTS and name not in known:
        return f"'${name}' comes from the data set: name one in 'data.dataset', or give '{name}' in 'vars'"
    hint = suggest(name, known) if known else "There are none; give them in 'vars'."
    return f"no variable is called '{name}'. {hint}"


def _computed(expression: str, at: Tree, scope: Scope, report: Report) -> Any:
    def lookup(name: str) -> Any:
        tree = scope.lookup(name)
        if tree.value is FAILED:
            raise FailedBefore
        return tree.plain()

    try:
        return compute(expression, lookup)
    except FailedBefore:
        return FAILED
    except UnknownName as error:
        report.add_missing(at, f"'$({expression})': {_unknown(error)}")
    except ExpressionError as error:
        report.add(at, f"'$({expression})': {error}")
    return FAILED
