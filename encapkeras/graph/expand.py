"""Step 4: rows of `repeat` become nodes of their own, and variables in nodes become values."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from encapkeras.graph.tree import FAILED, Report, Tree
from encapkeras.graph.variables import NAME, Scope, substitute, substituted_text

MOST_NODES = 10_000
NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
RESERVED = ("labels",)


class Expansion:
    """The nodes of a spec after expansion.

    Args:
        scope: The spec's variables.
        report: Where mistakes go.

    Attributes:
        nodes: Each node's map by its name, in the order of writing, without `repeat`.
        complete: Whether the names of all nodes are known; if not, an unknown name is no mistake of its own.
    """

    def __init__(self, scope: Scope, report: Report) -> None:
        self._scope = scope
        self._report = report
        self._inputs: list[str] = []
        self.nodes: dict[str, Tree] = {}
        self.complete = True

    def expand(self, nodes: Tree, inputs: list[str]) -> None:
        """Expands all nodes.

        Args:
            nodes: The map `model.nodes`.
            inputs: The names of the model's inputs; if there is one, it stands above the first node.
        """
        self._inputs = inputs
        above = inputs[0] if len(inputs) == 1 else None
        for key, node in nodes.entries().items():
            if len(self.nodes) >= MOST_NODES:
                self._report.add(node, f"there are more than {MOST_NODES} nodes")
                self.complete = False
                return
            if not isinstance(node.value, dict):
                self.complete = self.complete and node.value is not FAILED
                self._add(key, node, FAILED)
                continue
            above = self._repeated(key, node, above) if "repeat" in node.value else self._single(key, node)

    def _single(self, key: str, node: Tree) -> str | None:
        name = self._name(key, node, self._scope)
        if name is not None:
            self._add(name, node, _substituted(node, self._scope, self._scope, self._report))
        return name

    def _repeated(self, key: str, node: Tree, above: str | None) -> str | None:
        """Adds a node for each row; gives the last one's name."""
        rows = self._rows(node)
        self.complete = self.complete and bool(rows)
        body = node.with_value({name: entry for name, entry in node.value.items() if name != "repeat"})
        for number, row in enumerate(rows, 1):
            scope = Scope(row.entries(), self._scope)
            name = self._name(key, dataclasses.replace(node, note=f"(row {number})"), scope)
            if name is None:
                return None
            noted = body.noted(f"(row {number}, '{name}')")
            previous = noted.with_value(FAILED if above is None else above)
            inputs_scope = Scope({"previous": previous}, scope)
            if above is None and _mentions_previous(body):
                self._report.add_missing(
                    noted.value["inputs"], "'$previous': no single node or input is above; name one"
                )
            self._add(name, noted, _substituted(noted, scope, inputs_scope, self._report))
            above = name
        return above

    def _rows(self, node: Tree) -> list[Tree]:
        rows = substitute(node.value["repeat"], self._scope, self._report)
        if rows.value is FAILED:
            return []
        if isinstance(rows.value, list) and len(rows.value) > MOST_NODES:
            self._report.add(rows, f"has {len(rows.value)} rows, more than {MOST_NODES}")
            return []
        if not isinstance(rows.value, list) or not rows.value:
            self._report.add(rows, f"must be a list of rows, such as [{{i: 1}}, {{i: 2}}]; received {rows.plain()!r}")
            return []
        for row in rows.value:
            if not isinstance(row.value, dict):
                self._report.add(row, f"a row must be a map, such as {{i: 1}}; received {row.plain()!r}")
            for name, value in row.entries().items():
                check_variable_name(name, value, self._report)
        return rows.value if all(isinstance(row.value, dict) for row in rows.value) else []

    def _name(self, key: str, node: Tree, scope: Scope) -> str | None:
        value = substituted_text(key, node, scope, self._report)
        if value is FAILED:
            self.complete = False
            return None
        return str(value)

    def _add(self, name: str, node: Tree, value: Any) -> None:
        """Adds a node, as a failed one if its name is not allowed."""
        problem = self._name_problem(name, bool(node.note))
        if problem:
            self._report.add(node, problem)
        if name not in self.nodes and name not in self._inputs:
            self.nodes[name] = node.with_value(FAILED if problem else value)

    def _name_problem(self, name: str, in_row: bool) -> str:
        if name in RESERVED:
            return f"the name '{name}' is reserved for the labels that losses compare with"
        if name in self._inputs:
            return f"the name '{name}' is taken by an input"
        if name in self.nodes:
            rows = "; put a variable of the row into the name, such as 'stage$i'" if in_row else ""
            return f"the name '{name}' is taken by another node{rows}"
        if not NODE_NAME.fullmatch(name):
            allowed = "letters, digits, '_', '-' and '.', and begins with a letter, digit or '_'"
            return f"'{name}' is no name for a node; it consists of {allowed}"
        return ""


def check_variable_name(name: str, at: Tree, report: Report) -> None:
    """Notes a variable whose name cannot be written after a `$`."""
    if name == "previous":
        report.add(at, "'previous' is reserved: $previous means the row before")
    elif not NAME.fullmatch(name):
        report.add(at, f"'{name}' is no name for a variable; it consists of letters, digits and '_', no digit first")


def _mentions_previous(node: Tree) -> bool:
    inputs = node.entries().get("inputs")
    return inputs is not None and "$previous" in str(inputs.plain())


def _substituted(node: Tree, scope: Scope, inputs_scope: Scope, report: Report) -> dict[str, Tree]:
    """A node's map with values for variables; its `doc` is the user's own text."""
    scopes = {"inputs": inputs_scope}
    return {
        key: entry if key == "doc" else substitute(entry, scopes.get(key, scope), report)
        for key, entry in node.value.items()
    }
