"""Step 6: check nodes, references and outputs against each other, and put the nodes in order."""

from __future__ import annotations

import copy
import graphlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from encapkeras.errors import nearest, suggest
from encapkeras.spec.blocks import PREFIX as BLOCK_PREFIX
from encapkeras.spec.expand import Expansion
from encapkeras.spec.keras_names import IMAGENET
from encapkeras.spec.known import Known
from encapkeras.spec.layer_kinds import LayerKind, layer_kind
from encapkeras.spec.report import Report
from encapkeras.spec.sections import NODE, NodeKeys
from encapkeras.spec.settings import absolute_path
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import NODE_NAME, RESERVED

# Keras follows a model's layers from the outputs to the inputs with one call a layer, and Python allows 1,000 calls
# inside one another; the rest is for the calls that lead there.
DEEPEST_CHAIN = 800


@dataclass(frozen=True)
class Reference:
    """A tensor of the graph: a port of a node, or an input (whose only port is `out`)."""

    node: str
    port: str = "out"

    def __str__(self) -> str:
        return self.node if self.port == "out" else f"{self.node}/{self.port}"


@dataclass(frozen=True)
class Node:
    """One layer of the network; `listed` if its inputs are a list in the spec, `arguments` with its defaults."""

    name: str
    kind: LayerKind
    inputs: tuple[Reference, ...]
    listed: bool
    arguments: Mapping[str, Any]
    settings: NodeKeys
    tree: Tree = field(repr=False, compare=False)

    @property
    def layer(self) -> str:
        """The name of its layer in specs."""
        return self.kind.name

    @property
    def layer_name(self) -> str:
        """The name of its Keras layer."""
        return layer_name(self.name)

    def resolved(self) -> dict[str, Any]:
        """The node as plain data."""
        names = [str(reference) for reference in self.inputs]
        settings = self.settings.model_dump(exclude_unset=True, exclude={"layer", "inputs"})
        inputs = names if self.listed else names[0]
        return {"layer": self.layer, "inputs": inputs, **copy.deepcopy(self.arguments), **settings}


def is_name(name: str) -> bool:
    """Whether an input, an output or a loss may have this name."""
    return name not in RESERVED and bool(NODE_NAME.fullmatch(name))


def layer_name(name: str) -> str:
    """The name of the Keras layer behind a name of a spec: with a colon for each dot, which torch keeps for itself."""
    return name.replace(".", ":")


class Graph:
    """The nodes of a spec, checked one by one and against each other."""

    def __init__(
        self, expansion: Expansion, inputs: Mapping[str, Tree], defaults: Tree, known: Known, report: Report
    ) -> None:
        self._expansion = expansion
        self._inputs = inputs
        self._known = known
        self._report = report
        self._kinds = {name: self._kind(tree) for name, tree in expansion.nodes.items()}
        self._used: set[str] = set()
        self._needs: dict[str, list[str]] = {}  # also of nodes with wrong arguments
        self.failed: set[str] = set()
        self._defaults = self._checked_defaults(defaults)
        checked = {name: self._checked(name, tree) for name, tree in expansion.nodes.items()}
        wrong = {str(tree.value) for tree in expansion.called_on if self.reference(tree) is None}
        # Each after those that it needs; `failed` are the others, and what is not there.
        self.nodes = self._in_order({name: node for name, node in checked.items() if node})
        self.failed |= wrong | set(expansion.nodes) - {node.name for node in self.nodes}

    def reference(self, tree: Tree) -> Reference | None:
        """The tensor that a text names; None, and an error in the report, if there is none."""
        if tree.value is FAILED:
            return None
        name, slash, port = tree.value.partition("/")
        if name in RESERVED:
            self._report.add(tree, f"'{name}' means the labels; only the argument '{name}' of a loss can name it")
            return None
        self._used.add(name)
        if name in self._expansion.uses and name not in self._expansion.nodes:
            if slash and port != "out":
                self._report.add(tree, f"'{name}' is a block and has no ports; name a node in it, '{name}.<node>'")
                return None
            return Reference(self._expansion.output_of(name))
        if name in self._inputs:
            if slash and port != "out":
                self._report.add(tree, f"'{name}' is an input and has no ports; write '{name}'")
                return None
            return Reference(name)
        if name not in self._expansion.nodes:
            unknown_block = any(name.startswith(f"{use}.") for use in self._expansion.failed)
            if self._expansion.complete and not unknown_block:
                self._report.add_missing(tree, self._unknown(name))
            return None
        kind = self._kinds[name]
        if kind and slash and port not in kind.ports:
            self._report.add(tree, f"node '{name}' has no port '{port}'; ports: {', '.join(kind.ports)}")
            return None
        return Reference(name, port if slash else "out")

    def _unknown(self, name: str) -> str:
        use, _, inner = name.rpartition(".")
        if use in self._expansion.uses:
            near = suggest(inner, self._expansion.names_in(use))
            block = self._expansion.uses[use]
            return f"block '{block}' has no node '{inner}'. {near} In a block, nodes see each other and its inputs."
        names = [*self._expansion.nodes, *self._expansion.uses, *self._inputs]
        return f"no node or input is called '{name}'. {suggest(name, names)}"

    def name_problem(self, name: str) -> str:
        """Why a side loss, which becomes a layer next to the nodes, cannot have this name; empty if it can."""
        if name in self._inputs or name in self._expansion.nodes or name in self._expansion.uses:
            return f"the name '{name}' is taken by {'an input' if name in self._inputs else 'a node'}"
        return "" if is_name(name) else f"'{name}' is not a valid name for a loss"

    def add_unused_inputs(self) -> None:
        """Add an error for each input that nothing names; call this after all references are resolved."""
        sound = self.nodes and not self.failed and not self._known.undecided
        if sound and self._expansion.complete and self._report.whole:
            for name, tree in self._inputs.items():
                if name not in self._used:
                    self._report.add(tree, f"nothing uses the input '{name}'; name it in 'inputs' or remove it")

    def _kind(self, tree: Tree) -> LayerKind | None:
        layer = tree.entries().get("layer")
        if layer is None or not isinstance(layer.value, str):
            return None
        return self._kind_called(layer.value, layer)

    def _kind_called(self, name: str, at: Tree) -> LayerKind | None:
        try:
            kind = layer_kind(name, self._known)
        except LookupError as error:
            self._report.add(at, error.args[0])
            return None
        if kind:
            self._report.warn_if_renamed(at, name, kind.name)
        return kind

    def _is_left_to_keras(self, entries: Mapping[str, Tree]) -> bool:
        layer = entries.get("layer")
        try:
            return layer is not None and isinstance(layer.value, str) and layer_kind(layer.value, self._known) is None
        except LookupError:
            return False

    def _checked_defaults(self, defaults: Tree) -> dict[str, dict[str, Tree]]:
        """The valid defaults by layer; an error in one is reported in its place, once rather than for each node."""
        valid: dict[str, dict[str, Tree]] = {}
        for name, arguments in defaults.entries().items():
            if name.startswith(BLOCK_PREFIX):
                text = "the parameters of a block have their defaults in the block: 'blocks.NAME.parameters'"
                self._report.add(arguments, text)
                continue
            kind = self._kind_called(name, arguments)
            if kind:
                known = self._report.as_meant(arguments, kind.arguments)
                problems = self._report.add_values(kind.arguments, arguments.with_value(known), partly=True)
                wrong = {problem.path[0] for problem in problems}
                defaults_of_kind = valid.setdefault(kind.name, {})
                defaults_of_kind.update({k: e.with_value(FAILED) if k in wrong else e for k, e in known.items()})
        return valid

    def _checked(self, name: str, tree: Tree) -> Node | None:
        if tree.value is FAILED:
            return None
        kind = self._kinds[name]
        common_keys = NodeKeys.model_fields
        entries = self._report.as_meant(tree, kind.arguments, common_keys) if kind else tree.entries()
        if kind is None and self._is_left_to_keras(entries):  # which says whether a key is misspelt
            guesses = {nearest(key, common_keys): entry.as_guess() for key, entry in entries.items()}
            entries = {**{key: guess for key, guess in guesses.items() if key}, **entries}
        common = {key: entry for key, entry in entries.items() if key in common_keys}
        head = tree.with_value(common)
        wrong = bool(self._report.add_values(NODE, head)) or any(head.failures())
        inputs = self._references(common["inputs"]) if "inputs" in common else None
        # A list, for sets of names come in another order in each process, and with them the first weights.
        self._needs[name] = [reference.node for reference in inputs or ()]
        if kind is None:
            return None
        own = {**self._defaults.get(kind.name, {}), **{k: e for k, e in entries.items() if k not in common}}
        if kind.is_backbone and "weights" in own and own["weights"].value != IMAGENET:
            own["weights"] = absolute_path(own["weights"])
        written = tree.with_value(own)
        if self._report.add_values(kind.arguments, written) or any(written.failures()) or wrong or inputs is None:
            return None
        settings = NodeKeys.model_validate({**head.plain(), "layer": kind.name})
        return Node(name, kind, inputs, isinstance(common["inputs"].value, list), written.plain(), settings, tree)

    def _references(self, tree: Tree) -> tuple[Reference, ...] | None:
        elements = tree.value if isinstance(tree.value, list) else [tree]
        found = [self.reference(element) for element in elements if isinstance(element.value, str)]
        if len(found) < len(elements) or None in found:
            return None
        return tuple(reference for reference in found if reference)

    def _in_order(self, nodes: dict[str, Node]) -> list[Node]:
        """The nodes, each after those that it needs, without those that need themselves or are too deep."""
        needs = {name: [need for need in found if need in self._needs] for name, found in self._needs.items()}
        while True:
            try:
                order = list(graphlib.TopologicalSorter(needs).static_order())
                break
            except graphlib.CycleError as error:
                circle = list(error.args[1][1:])
                self._add_circle(circle)
                for name in circle:
                    needs[name] = []
                    self.failed.add(name)
        self._add_too_deep(order, needs)
        return [nodes[name] for name in order if name in nodes and name not in self.failed]

    def _add_circle(self, circle: list[str]) -> None:
        position = {name: index for index, name in enumerate(self._needs)}
        first = circle.index(min(circle, key=lambda name: position[name]))
        names = [*circle[first:], *circle[:first]]
        at = self._expansion.nodes[names[0]].value["inputs"]
        self._report.add(at, f"the nodes depend on each other in a cycle: {' -> '.join([*names, names[0]])}")

    def _add_too_deep(self, order: list[str], needs: dict[str, list[str]]) -> None:
        depth: dict[str, int] = {}
        for name in order:
            depth[name] = 1 + max((depth[need] for need in needs[name]), default=0)
        too_deep = [name for name in order if depth[name] > DEEPEST_CHAIN]
        if too_deep:
            self._report.add(
                self._expansion.nodes[too_deep[0]],
                f"'{too_deep[0]}' comes more than {DEEPEST_CHAIN} layers after the input; Keras builds no deeper model "
                f"(the whole chain has {max(depth.values())})",
            )
            self.failed |= set(too_deep)
