"""Step 4: rows of `repeat` and the nodes of blocks become separate nodes, and variables in nodes become values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from encapkeras.errors import suggest
from encapkeras.spec.blocks import PREFIX, Block, unknown_block
from encapkeras.spec.report import Report
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import (
    NODE_NAME,
    RESERVED,
    Scope,
    Variables,
    check_variable_name,
    substitute,
    substitute_text,
)

MOST_NODES = 10_000
DEEPEST_BLOCKS = 16  # blocks inside one another; each is a few calls


@dataclass(frozen=True)
class _Place:
    """Where nodes are: at the top of the network, or in a use of a block."""

    scope: Scope
    inputs: Mapping[str, Tree]  # the references at the top that the names of inputs stand for
    prefix: str = ""  # what the names of the nodes begin with at the top
    blocks: tuple[str, ...] = ()  # those around, the outermost first
    handed_down: Mapping[str, Tree] = field(default_factory=dict)  # `trainable` and `dtype` of the use

    def reference(self, tree: Tree) -> Tree:
        """Return a reference that is written here as it reads at the top; that to an input has the place of the use."""
        if not self.prefix:
            return tree
        name, slash, port = tree.value.partition("/")
        if name not in self.inputs:
            return tree.with_value(self.prefix + tree.value)
        outside = self.inputs[name]
        return tree.with_value(f"{outside.value}/{port}") if slash else outside


class Expansion:
    """The nodes of a spec after expansion."""

    def __init__(self, scope: Scope, blocks: Mapping[str, Block | None], report: Report) -> None:
        self._scope = scope
        self._blocks = blocks
        self._report = report
        self._outputs: dict[str, str] = {}
        self._is_full = False
        self.nodes: dict[str, Tree] = {}
        self._model_inputs: list[str] = []
        self.uses: dict[str, str] = {}  # the block behind each node that uses one
        self.failed: set[str] = set()  # nodes that use a block wrongly; what they hold is not known
        self.called_on: list[Tree] = []  # what blocks are called on, used by a node in them or not
        self.complete = True  # whether the names of all nodes are known; if not, an unknown name is not reported

    def expand(self, nodes: Tree, inputs: list[str]) -> None:
        """Expand `model.nodes`; a single input of the model is above the first node."""
        self._model_inputs = inputs
        self._expand(nodes, _Place(self._scope, {name: nodes.with_value(name) for name in inputs}))

    def output_of(self, name: str) -> str:
        """Return the node that a name means: of a use of a block, the block's output; else the name."""
        while name in self._outputs:
            name = self._outputs[name]
        return name

    def names_in(self, use: str) -> list[str]:
        """Return the names in the block of the nodes that belong to a use of it."""
        return [name.removeprefix(f"{use}.") for name in [*self.nodes, *self.uses] if name.startswith(f"{use}.")]

    def _expand(self, nodes: Tree, place: _Place) -> None:
        above = next(iter(place.inputs)) if len(place.inputs) == 1 else None
        for key, node in nodes.entries().items():
            if self._is_full:
                return
            if not isinstance(node.value, dict):
                self.complete = self.complete and node.value is not FAILED
                self._add(key, node, FAILED, place)
                continue
            expanded = self._repeated if "repeat" in node.value else self._single
            above = expanded(key, node, above, place)

    def _single(self, key: str, node: Tree, above: str | None, place: _Place) -> str | None:
        name = self._name(key, node, place.scope)
        if name is not None:
            self._add(name, node, _substituted(node, place.scope, place.scope, self._report), place)
        return name

    def _repeated(self, key: str, node: Tree, above: str | None, place: _Place) -> str | None:
        """Add a node for each row; return the last one's name."""
        rows = self._rows(node, place.scope)
        self.complete = self.complete and bool(rows)
        body = node.with_value({name: entry for name, entry in node.value.items() if name != "repeat"})
        self._report.count(node, len(rows) * body.size())
        for number, row in enumerate(rows, 1):
            scope = Scope(row.entries(), place.scope)
            name = self._name(key, dataclasses.replace(node, note=f"(row {number})"), scope)
            if name is None or self._is_full:
                return None
            noted = body.everywhere(note=f"(row {number}, '{place.prefix}{name}')")
            previous = noted.with_value(FAILED if above is None else above)
            inputs_scope = Scope({"previous": previous}, scope)
            if above is None and _mentions_previous(body):
                text = "'$previous': no single node or input is above; name one"
                self._report.add_missing(noted.value["inputs"], text)
            self._add(name, noted, _substituted(noted, scope, inputs_scope, self._report), place)
            above = name
        return above

    def _rows(self, node: Tree, scope: Scope) -> list[Tree]:
        rows = substitute(node.value["repeat"], scope, self._report)
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
        value = substitute_text(key, node, scope, self._report)
        if value is FAILED:
            self.complete = False
            return None
        return str(value)

    def _add(self, name: str, node: Tree, value: Any, place: _Place) -> None:
        """Add a node, as a failed one if its name is not allowed, or the nodes of the block that it uses."""
        if len(self.nodes) + len(self.uses) >= MOST_NODES:
            self._report.add(node, f"there are more than {MOST_NODES} nodes")
            self.complete, self._is_full = False, True
            return
        full_name = place.prefix + name
        problem = self._name_problem(name, full_name, place, node.note.startswith("(row"))
        if problem:
            self._report.add(node, problem)
            if full_name in {*self.nodes, *self.uses, *self._model_inputs} or name in place.inputs:
                self.complete = self.complete and not place.prefix  # the node of this name in the block is missing
                return
        if problem or value is FAILED:
            self.nodes[full_name] = node.with_value(FAILED)
            return
        entries = _handed_down({key: _referring(key, entry, place) for key, entry in value.items()}, place)
        layer = entries.get("layer")
        if layer is not None and isinstance(layer.value, str) and layer.value.startswith(PREFIX):
            self._use(full_name, node.with_value(entries), place)
        else:
            self.nodes[full_name] = node.with_value(entries)

    def _name_problem(self, name: str, full_name: str, place: _Place, in_row: bool) -> str:
        if name in RESERVED:
            return f"the name '{name}' is reserved for the labels that losses compare with"
        if name in place.inputs or full_name in self._model_inputs:
            return f"the name '{name if name in place.inputs else full_name}' is taken by an input"
        if full_name in self.nodes or full_name in self.uses:
            rows = "; put a variable of the row into the name, such as 'stage$i'" if in_row else ""
            return f"the name '{full_name}' is taken by another node{rows}"
        if not NODE_NAME.fullmatch(name):
            allowed = "letters, digits, '_', '-' and '.', with a letter, digit or '_' first"
            return f"'{name}' is not a valid node name; allowed are {allowed}"
        return ""

    def _use(self, name: str, node: Tree, place: _Place) -> None:
        block = self._block(node.value["layer"], place)
        node = block.known(node, self._report) if block else node
        inputs = self._inputs(node, block) if block else None
        given = block.given(node, self._report) if block else {}
        if block is None or inputs is None:
            self.nodes[name] = node.with_value(FAILED)
            self.failed.add(name)
            return
        self.called_on += inputs.values()
        self.uses[name] = block.name
        self._report.count(node, block.nodes.size())
        scope = Variables(block.defaults, self._scope, self._report)
        scope.settle(given)
        scope.compute_all()
        handed_down = {key: node.value[key] for key in ("trainable", "dtype") if key in node.value}
        within = _Place(scope, inputs, f"{name}.", (*place.blocks, block.name), handed_down)
        note = f"(in '{name}')"
        self._expand(block.nodes.everywhere(note=note), within)
        self._set_output(name, node, substitute(block.output.everywhere(note=note), scope, self._report), block)

    def _block(self, layer: Tree, place: _Place) -> Block | None:
        name = layer.value.removeprefix(PREFIX)
        if name not in self._blocks:
            self._report.add_missing(layer, unknown_block(name, self._blocks))
        elif name in place.blocks:
            circle = " -> ".join([*place.blocks[place.blocks.index(name) :], name])
            self._report.add(layer, f"the blocks depend on each other in a cycle: {circle}")
        elif len(place.blocks) >= DEEPEST_BLOCKS:
            self._report.add(layer, f"blocks are nested more than {DEEPEST_BLOCKS} deep")
        else:
            return self._blocks[name]
        return None

    def _inputs(self, node: Tree, block: Block) -> dict[str, Tree] | None:
        """Return the references at the top to the tensors that a block is called on, by their names in the block."""
        written = node.value.get("inputs")
        if written is None:
            self._report.add_missing(node, "'inputs' is missing")
            return None
        references = written.value if isinstance(written.value, list) else [written]
        if any(reference.value is FAILED for reference in references):
            return None
        if not all(isinstance(reference.value, str) for reference in references):
            self._report.add(written, f"must be a node, node/port, or a list of them; received {written.plain()!r}")
            return None
        if len(references) != len(block.inputs):
            names = ", ".join(block.inputs)
            text = f"block '{block.name}' is called on {len(block.inputs)} ({names}); received {len(references)}"
            self._report.add(written, text)
            return None
        return dict(zip(block.inputs, references, strict=True))

    def _set_output(self, name: str, node: Tree, output: Tree, block: Block) -> None:
        """Record the node whose output is that of a use of a block, and the shape expected of it."""
        target = f"{name}.{output.value}"
        if output.value is FAILED or (target not in self.nodes and target not in self.uses):
            if output.value is not FAILED and self.complete:
                near = suggest(str(output.value), self.names_in(name))
                self._report.add(output, f"block '{block.name}' has no node '{output.value}'. {near}")
            self.nodes[name] = node.with_value(FAILED)
            return
        self._outputs[name] = target
        inner = self.nodes.get(self.output_of(name))
        expected = node.value.get("expect")
        if expected is None or inner is None or inner.value is FAILED:
            return
        own = inner.value.get("expect")
        if own is None:
            inner.value["expect"] = expected
        elif not own.failed and not expected.failed and own.plain() != expected.plain():
            text = f"expects {expected.plain()!r}, while '{output.value}' in the block expects {own.plain()!r}"
            self._report.add(expected, text)


def _referring(key: str, entry: Tree, place: _Place) -> Tree:
    """Return an entry of a node, with references as they read at the top."""
    if key != "inputs":
        return entry
    if isinstance(entry.value, str):
        return place.reference(entry)
    return entry.each(lambda element: _referring(key, element, place)) if isinstance(entry.value, list) else entry


def _handed_down(entries: dict[str, Tree], place: _Place) -> dict[str, Tree]:
    """Return a node's map with what the block around is given: its own `dtype` wins, a frozen block is frozen."""
    frozen = {key: entry for key, entry in place.handed_down.items() if key == "trainable" and entry.value is not True}
    return {**place.handed_down, **entries, **frozen}


def _mentions_previous(node: Tree) -> bool:
    inputs = node.entries().get("inputs")
    return inputs is not None and "$previous" in str(inputs.plain())


def _substituted(node: Tree, scope: Scope, inputs_scope: Scope, report: Report) -> dict[str, Tree]:
    """Return a node's map with values for variables; its `doc` is the user's own text."""
    scopes = {"inputs": inputs_scope}
    return {
        key: entry if key == "doc" else substitute(entry, scopes.get(key, scope), report)
        for key, entry in node.value.items()
    }
