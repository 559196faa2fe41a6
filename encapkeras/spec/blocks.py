"""The `blocks` of a spec: parts of a network that nodes use by name, each use with its own parameters."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encapkeras.errors import suggest
from encapkeras.spec.report import Report
from encapkeras.spec.sections import BLOCK, BlockSection, NodeKeys
from encapkeras.spec.sections import REQUIRED as REQUIRED_PARAMETER
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import NODE_NAME, RESERVED, check_variable_name
from encapkeras.validation import REQUIRED, Argument, Arguments

PREFIX = "block."

# What a node passes to the block that it uses, or to the block's output, in addition to parameters.
_COMMON = frozenset({*NodeKeys.model_fields, "repeat"})


@dataclass(frozen=True)
class Block:
    """A valid declaration."""

    name: str
    inputs: tuple[str, ...]  # the names that its nodes have for the tensors that it is called on
    parameters: Mapping[str, Tree | None]  # each one's default; None where a use must give a value
    nodes: Tree  # as written
    output: Tree  # the node whose output is the block's, as written

    @functools.cached_property
    def arguments(self) -> Arguments:
        """What a use may give; nodes check the values."""
        own = [Argument(name, Any, REQUIRED if default is None else None) for name, default in self.parameters.items()]
        return Arguments(f"block '{self.name}'", own, "a parameter")

    def known(self, node: Tree, report: Report) -> Tree:
        """A node that uses the block, without keys that are neither parameters nor every node's, which are noted."""
        return node.with_value(report.as_meant(node, self.arguments, _COMMON))

    def given(self, node: Tree, report: Report) -> dict[str, Tree]:
        """Return the parameters that a node which uses the block gives; missing ones are reported, and fail."""
        values = {name: entry for name, entry in node.entries().items() if name in self.parameters}
        for name, default in self.parameters.items():
            if default is None and name not in values:
                report.add_missing(node, self.arguments.missing(name))
                values[name] = node.with_value(FAILED)
        return values

    @property
    def defaults(self) -> dict[str, Tree]:
        """Return the parameters that have a default, as written."""
        return {name: default for name, default in self.parameters.items() if default is not None}


def read_blocks(tree: Tree, report: Report) -> dict[str, Block | None]:
    """Return the blocks of a spec by name; None for one with an error, which is reported."""
    return {name: _block(name, entry, report) for name, entry in tree.entries().items()}


def _block(name: str, tree: Tree, report: Report) -> Block | None:
    if not NODE_NAME.fullmatch(name):
        report.add(tree, f"'{name}' is not a valid block name; allowed are letters, digits, '_', '-' and '.'")
        return None
    if not isinstance(tree.value, dict):  # reported with the section
        return None
    problems = report.add_values(BLOCK, tree)
    if any(problem.kind != "unknown" for problem in problems) or any(tree.failures()):
        return None
    entries = tree.entries()
    inputs, parameters = _inputs(tree, report), _parameters(tree, report)
    if inputs is None or parameters is None:
        return None
    return Block(name, inputs, parameters, entries["nodes"], entries["output"])


def _inputs(tree: Tree, report: Report) -> tuple[str, ...] | None:
    written = tree.entries().get("inputs")
    if written is None:
        return tuple(BlockSection.model_fields["inputs"].default)
    names = [str(name.value) for name in written.value]
    for position, name in enumerate(names):
        if not NODE_NAME.fullmatch(name) or name in (*RESERVED, *names[:position]):
            why = "occurs twice" if name in names[:position] else "is not a valid input name"
            report.add(written.value[position], f"'{name}' {why}")
            return None
    return tuple(names)


def _parameters(tree: Tree, report: Report) -> dict[str, Tree | None] | None:
    written = tree.entries().get("parameters")
    entries = written.entries() if written else {}
    for name, entry in entries.items():
        check_variable_name(name, entry, report)
        if name in _COMMON:
            report.add(entry, f"'{name}' is not a valid parameter name: every node has a key '{name}'")
            return None
    return {name: None if entry.value == REQUIRED_PARAMETER else entry for name, entry in entries.items()}


def unknown_block(name: str, blocks: Mapping[str, Block | None]) -> str:
    """Return the message for a name that no block has."""
    known = suggest(name, blocks) if blocks else "There are none; declare them in 'blocks'."
    return f"no block is called '{name}'. {known}"
