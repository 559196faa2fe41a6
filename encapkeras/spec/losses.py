"""Step 6, for losses: those on outputs, and side losses, which name tensors of the graph as nodes do."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from encapkeras.errors import suggest
from encapkeras.losses import LOSSES, SideLoss
from encapkeras.losses.side_loss import LABELS
from encapkeras.spec.nodes import Graph, Reference, layer_name, note_value
from encapkeras.spec.report import Report
from encapkeras.spec.sections import LOSS, LossKeys
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.validation import shown


@dataclass(frozen=True)
class OutputLoss:
    """The loss of one output.

    Args:
        loss: Its registered name.
        arguments: Its arguments.
        weight: What it is multiplied by in the sum of all losses.
    """

    loss: str
    arguments: Mapping[str, Any]
    weight: float = 1.0

    def make(self) -> keras.losses.Loss:
        """The Keras loss."""
        return LOSSES[self.loss].target(**self.arguments)

    def resolved(self) -> dict[str, Any]:
        """The loss as plain data."""
        return {"loss": self.loss, **copy.deepcopy(self.arguments), "weight": self.weight}


@dataclass(frozen=True)
class NamedSideLoss:
    """A loss on tensors of the graph.

    Args:
        name: Its name, that of no node and no output.
        loss: Its registered name.
        tensors: The tensor behind each name that it takes, but for the labels.
        labels: Its reference to labels as written, `labels` or `labels/OUTPUT`; empty if it takes none.
        labels_of: The output whose labels these are; empty if it takes none.
        arguments: Its other arguments.
        weight: What it is multiplied by in the sum of all losses.
        tree: Where it is written.
    """

    name: str
    loss: str
    tensors: Mapping[str, Reference]
    labels: str
    labels_of: str
    arguments: Mapping[str, Any]
    weight: float
    tree: Tree = field(repr=False, compare=False)

    @property
    def references(self) -> dict[str, str]:
        """All that it names, the labels included, as the spec writes it."""
        tensors = {name: str(reference) for name, reference in self.tensors.items()}
        return {**tensors, LABELS: self.labels} if self.labels else tensors

    def make(self, policy: Any = None) -> SideLoss:
        """The Keras layer; raises whatever its constructor raises."""
        return LOSSES[self.loss].target(name=layer_name(self.name), dtype=policy, **self.arguments)  # type: ignore[no-any-return]

    def resolved(self) -> dict[str, Any]:
        """The loss as plain data."""
        return {"loss": self.loss, **self.references, **copy.deepcopy(self.arguments), "weight": self.weight}


class LossChecks:
    """Checks the losses of a spec against its outputs and nodes.

    Args:
        outputs: The model's outputs.
        graph: The nodes.
        report: Where mistakes go.
    """

    def __init__(self, outputs: Mapping[str, Tree], graph: Graph, report: Report) -> None:
        self._outputs = outputs
        self._graph = graph
        self._report = report

    def checked(self, losses: Tree) -> dict[str, OutputLoss | NamedSideLoss]:
        """The sound losses by name, in the order of writing."""
        entries = {name: tree for name, tree in losses.entries().items() if isinstance(tree.value, dict)}
        found = {name: self._checked(name, tree) for name, tree in entries.items()}
        return {name: loss for name, loss in found.items() if loss}

    def _checked(self, name: str, tree: Tree) -> OutputLoss | NamedSideLoss | None:
        written = tree.entries().get("loss")
        kind = written.value if written and isinstance(written.value, str) and written.value in LOSSES else None
        takes = _takes(kind) if kind else {}
        entries = self._known(tree.entries(), kind, takes) if kind else tree.entries()
        common = {key: entry for key, entry in entries.items() if key in LossKeys.model_fields}
        head = tree.with_value(common)
        wrong = bool(self._report.add_values(LOSS, head)) or any(tree.failures())
        if kind is None:
            if written and isinstance(written.value, str):
                self._report.add(written, f"no loss is called '{written.value}'. {suggest(written.value, LOSSES)}")
            return None
        if not takes and self._outputs and name not in self._outputs:
            self._report.add_missing(tree, f"no output is called '{name}'. {suggest(name, self._outputs)}")
        own = {key: entry for key, entry in entries.items() if key not in common}
        arguments = {key: entry for key, entry in own.items() if key not in takes}
        wrong = self._note_arguments(tree, kind, arguments) or wrong
        weight = float(head.plain().get("weight", 1.0)) if not wrong else 1.0
        if takes:
            return self._side_loss(name, tree, takes, own, wrong, weight)
        return None if wrong else self._output_loss(tree, kind, arguments, weight)

    def _known(self, entries: Mapping[str, Tree], kind: str, takes: Mapping[str, str]) -> dict[str, Tree]:
        """The entries that are arguments or tensors of the loss, or common to all; the others are noted."""
        names = [*LOSSES[kind].arguments, *takes]
        return self._report.as_meant(entries, f"an argument of loss '{kind}'", names, LossKeys.model_fields)

    def _note_arguments(self, tree: Tree, kind: str, arguments: Mapping[str, Tree]) -> bool:
        """Notes ill-typed and missing arguments; says whether there are any."""
        failed = {key for key, entry in arguments.items() if any(entry.failures())}
        problems = LOSSES[kind].problems({key: e.plain() for key, e in arguments.items() if key not in failed})
        problems = [problem for problem in problems if problem.path[0] not in failed]
        for problem in problems:
            note_value(arguments.get(str(problem.path[0]), tree), problem, self._report)
        return bool(problems or failed)

    def _output_loss(self, tree: Tree, kind: str, arguments: Mapping[str, Tree], weight: float) -> OutputLoss | None:
        loss = OutputLoss(kind, {key: entry.plain() for key, entry in arguments.items()}, weight)
        try:
            loss.make()
        except ValueError as error:
            self._report.add(tree, str(error))
            return None
        return loss

    def _side_loss(
        self, name: str, tree: Tree, takes: Mapping[str, str], own: Mapping[str, Tree], wrong: bool, weight: float
    ) -> NamedSideLoss | None:
        problem = self._name_problem(name)
        if problem:
            self._report.add(tree, problem)
        kind = tree.value["loss"].value
        tensors = {key: self._tensor(key, doc, tree, own) for key, doc in takes.items() if key != LABELS}
        labels, labels_of = self._labels(tree, own) if LABELS in takes else ("", "")
        if problem or wrong or None in tensors.values() or (LABELS in takes and not labels):
            return None
        arguments = {key: entry.plain() for key, entry in own.items() if key not in takes}
        sound = {key: reference for key, reference in tensors.items() if reference}
        return NamedSideLoss(name, kind, sound, labels, labels_of, arguments, weight, tree)

    def _name_problem(self, name: str) -> str:
        if name in self._outputs:
            return (
                f"'{name}' is an output, whose loss compares it with the labels; this loss looks at tensors that it "
                "names: give it a name of its own"
            )
        if name == "val" or name.startswith("val_"):
            return f"'{name}' is no name for a loss: '{name}_loss' would be taken for a figure of the validation"
        return self._graph.name_problem(name)

    def _tensor(self, key: str, doc: str, tree: Tree, own: Mapping[str, Tree]) -> Reference | None:
        if key not in own:
            text = f"loss '{tree.value['loss'].value}' needs '{key}', a node or node/port{': ' + doc if doc else ''}"
            self._report.add_missing(tree, text)
            return None
        if own[key].value is not FAILED and not isinstance(own[key].value, str):
            self._report.add(own[key], f"must be a node or node/port; received {shown(own[key].plain())}")
            return None
        return self._graph.reference(own[key])

    def _labels(self, tree: Tree, own: Mapping[str, Tree]) -> tuple[str, str]:
        """The reference to labels, and the output that they belong to; empty after a mistake."""
        entry = own.get(LABELS, tree.with_value(LABELS))
        if entry.value is FAILED or not self._outputs:
            return "", ""
        allowed = {f"{LABELS}/{output}": output for output in self._outputs}
        if len(self._outputs) == 1:
            allowed[LABELS] = next(iter(self._outputs))
        if entry.value in list(allowed):
            return entry.value, allowed[entry.value]
        if entry.value == LABELS:
            text = f"the model has several outputs; say whose labels these are. {suggest('', allowed)}"
        else:
            hint = suggest(str(entry.value), allowed)
            text = f"must stand for the labels; received {shown(entry.plain())}. {hint}"
        self._report.add(entry, text)
        return "", ""


def _takes(kind: str) -> dict[str, str]:
    """The tensors that a registered side loss takes, with their descriptions; none of a loss on an output."""
    target = LOSSES[kind].target
    return target.tensors() if isinstance(target, type) and issubclass(target, SideLoss) else {}
