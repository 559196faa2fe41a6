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
RESERVED = ("labels",)  # no names of nodes and inputs
_REFERENCE = re.compile(r"\$(?:(?P<name>[A-Za-z_]\w*)|(?P<open>\())", re.ASCII)

# What the data set tells about itself.
FACTS = ("classes", "height", "width", "channels")


LONGEST_TEXT = 1000  # characters of a text with variables in it
LARGEST_VALUE = 3000  # values in a variable that is a list or a map
DEEPEST = 100  # variables that need one another, and lists and maps in them


NO_NAMES: frozenset[str] = frozenset()


class UnknownName(Exception):
    """A name means nothing in a scope."""

    def __init__(self, name: str, scope: Scope) -> None:
        self.name = name
        self._scope = scope

    @property
    def known(self) -> frozenset[str]:
        """The names that mean something there."""
        return self._scope.names()


class FailedBefore(Exception):
    """A value is needed whose mistake has been reported."""


class Scope:
    """Names and what they mean: those of a row before the spec's variables before the data set's facts.

    Args:
        values: The names of this scope.
        outer: Where to look for all others.
    """

    def __init__(self, values: Mapping[str, Tree], outer: Scope | None = None) -> None:
        self._values = dict(values)
        self._outer = outer
        self._names: tuple[frozenset[str], frozenset[str]] | None = None  # of the outer scope, and all

    def define(self, values: Mapping[str, Tree]) -> None:
        """Adds names that were not known from the start."""
        self._values.update(values)
        self._names = None

    def lookup(self, name: str) -> Tree:
        """What a name means; `FAILED` as its value if its own mistake has been reported.

        Raises:
            UnknownName: It means nothing.
        """
        if name in self._values:
            return self._values[name]
        if self._outer is None:
            raise UnknownName(name, self)
        try:
            return self._outer.lookup(name)
        except UnknownName:
            raise UnknownName(name, self) from None

    def names(self) -> frozenset[str]:
        """All names that mean something here; kept, since thousands of mistakes may ask for thousands of names."""
        outer: frozenset[str] = self._outer.names() if self._outer else NO_NAMES
        if self._names is None or self._names[0] is not outer:
            self._names = (outer, outer.union(self._values))
        return self._names[1]


class Variables(Scope):
    """The spec's `vars`; they may use each other, in any order.

    Args:
        values: The map as written.
        outer: The data set's facts.
        report: Where mistakes go.
    """

    def __init__(self, values: Mapping[str, Tree], outer: Scope, report: Report) -> None:
        super().__init__(values, outer)
        self._report = report
        self._done: dict[str, Tree] = {}
        self._open: list[str] = []
        self._read: set[str] = set()
        self._levels = 0  # of the open ones; each is a few calls

    def settle(self, values: Mapping[str, Tree]) -> None:
        """Adds variables whose values are computed already."""
        self.define(values)
        self._done.update(values)

    def lookup(self, name: str) -> Tree:
        """What a name means, computed when it is first asked for."""
        if name not in self._values:
            return super().lookup(name)
        self._read.add(name)
        return self._value(name)

    def unread(self) -> list[str]:
        """The names that nothing has looked up so far."""
        return [name for name in self._values if name not in self._read]

    def _value(self, name: str) -> Tree:
        if name not in self._done:
            self._done[name] = self._computed(name, self._values[name])
        return self._done[name]

    def _computed(self, name: str, tree: Tree) -> Tree:
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._report.add(tree, f"the variables need each other in a circle: {circle}")
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

    def compute_all(self) -> None:
        """Computes every variable, so that a mistake in one that nothing uses is reported too."""
        for name in self._values:
            self._value(name)


def check_variable_name(name: str, at: Tree, report: Report) -> None:
    """Notes a variable whose name cannot be written after a `$`."""
    if name == "previous":
        report.add(at, "'previous' is reserved: $previous means the row before")
    elif not NAME.fullmatch(name):
        report.add(at, f"'{name}' is no name for a variable; it consists of letters, digits and '_', no digit first")


def substitute(tree: Tree, scope: Scope, report: Report) -> Tree:
    """The tree with the values of variables in place of their names.

    Args:
        tree: Values as written.
        scope: What the names mean.
        report: Where mistakes go; a text with a mistake becomes `FAILED`.
    """
    if isinstance(tree.value, dict):
        return tree.with_value({key: substitute(entry, scope, report) for key, entry in tree.value.items()})
    if isinstance(tree.value, list):
        return tree.with_value([substitute(element, scope, report) for element in tree.value])
    if isinstance(tree.value, str) and "$" in tree.value:
        value = tree.with_value(substituted_text(tree.value, tree, scope, report))
        if value.value is not FAILED:
            value.origin = _origin(tree.value, scope)
        if isinstance(value.value, dict | list):
            report.count(value, value.size())
        return value
    return tree


def _origin(text: str, scope: Scope) -> str:
    """Where the value of a text is written that is one name and nothing else; empty for other texts."""
    name = _REFERENCE.fullmatch(text)
    if not name or not name["name"]:
        return ""
    given = scope.lookup(name["name"])
    return f"{text} from {given.origin or given.place}"


def substituted_text(text: str, at: Tree, scope: Scope, report: Report) -> Any:
    """A text with the values of variables in place of their names.

    A text that is one reference and nothing else becomes the value itself, as its own type; inside a longer text the
    value is written out.

    Args:
        text: The text.
        at: Where it is written.
        scope: What the names mean.
        report: Where mistakes go.

    Returns:
        The value; `FAILED` after a mistake.
    """
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
    """The position after the parenthesis that closes the one before `start`."""
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
    name, known = error.name, error.known
    if name == "previous":
        return "'$previous' means the row before and stands only in the 'inputs' of a node with 'repeat'"
    if name in FACTS and name not in known:
        return f"'${name}' comes from the data set: name one in 'data.dataset', or give '{name}' in 'vars'"
    hint = suggest(name, known) if known else "There are none; 'vars' is where they are given."
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
