"""Step 6, for losses: those on outputs, and side losses, which name tensors of the graph as nodes do."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from encapkeras.errors import suggest
from encapkeras.registry import Entry
from encapkeras.spec.known import Known
from encapkeras.spec.nodes import Graph, Reference, layer_name
from encapkeras.spec.report import Report
from encapkeras.spec.sections import LOSS, LossKeys, Ramp
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import LABELS
from encapkeras.validation import Argument, Arguments, shown

if TYPE_CHECKING:
    import keras

    from encapkeras.losses import SideLoss


@dataclass(frozen=True)
class OutputLoss:
    """The loss of one output, by its registered name."""

    loss: str
    arguments: Mapping[str, Any]
    weight: float = 1.0

    def make(self) -> keras.losses.Loss:
        """The Keras loss."""
        from encapkeras.losses import LOSSES

        return LOSSES[self.loss].target(**self.arguments)

    def resolved(self) -> dict[str, Any]:
        """The loss as plain data."""
        return {"loss": self.loss, **copy.deepcopy(self.arguments), "weight": self.weight}


@dataclass(frozen=True)
class NamedSideLoss:
    """A loss on tensors of the graph. `labels` is as written, and empty, like `labels_of`, if it takes none."""

    name: str
    loss: str
    tensors: Mapping[str, Reference]
    labels: str
    labels_of: str
    arguments: Mapping[str, Any]
    weight: float | Ramp
    tree: Tree = field(repr=False, compare=False)

    @property
    def references(self) -> dict[str, str]:
        """All that it names, the labels included, as the spec writes it."""
        tensors = {name: str(reference) for name, reference in self.tensors.items()}
        return {**tensors, LABELS: self.labels} if self.labels else tensors

    def weight_in(self, epoch: int | None) -> float:
        """The weight in an epoch, from 0; None: in the end."""
        if not isinstance(self.weight, Ramp):
            return self.weight
        return self.weight.to if epoch is None else self.weight.in_epoch(epoch)

    def make(self, policy: Any = None) -> SideLoss:
        """The Keras layer; raises whatever its constructor raises."""
        from encapkeras.losses import LOSSES

        return LOSSES[self.loss].target(name=layer_name(self.name), dtype=policy, **self.arguments)  # type: ignore[no-any-return]

    def resolved(self) -> dict[str, Any]:
        """The loss as plain data."""
        weight = self.weight.model_dump(by_alias=True) if isinstance(self.weight, Ramp) else self.weight
        return {"loss": self.loss, **self.references, **copy.deepcopy(self.arguments), "weight": weight}


def read_losses(
    losses: Tree, outputs: Mapping[str, Tree], graph: Graph, known: Known, report: Report
) -> dict[str, OutputLoss | NamedSideLoss]:
    """The valid losses by name, in the order of writing."""
    check = _LossCheck(outputs, graph, known, report)
    entries = {name: tree for name, tree in losses.entries().items() if isinstance(tree.value, dict)}
    found = {name: check.read(name, tree) for name, tree in entries.items()}
    return {name: loss for name, loss in found.items() if loss}


@functools.cache
def _registered_arguments(entry: Entry) -> Arguments:
    from encapkeras.spec.keras_layers import plain_argument

    return _arguments(entry, map(plain_argument, entry.arguments.values()))


def _arguments(entry: Entry, own: Iterable[Argument]) -> Arguments:
    """What a loss takes in specs: its own arguments and, of a side loss, tensors."""
    tensors = [
        Argument(name, Any, None)  # labels are checked against the outputs
        if name == LABELS
        else Argument(
            name, Annotated[Any, pydantic.BeforeValidator(_reference)], doc=f"a node or node/port. {doc}".strip()
        )
        for name, doc in _tensors(entry).items()
    ]
    return Arguments(f"loss '{entry.name}'", [*own, *tensors])


def _tensors(entry: Entry) -> dict[str, str]:
    """The tensors that a registered side loss takes, with their descriptions; none of a loss on an output."""
    tensors = getattr(entry.target, "tensors", None)  # only side losses have that
    return tensors() if inspect.ismethod(tensors) else {}


def _ramp_problem(entry: Entry) -> str:
    """Why the weight of a loss cannot change with the epochs; empty if it can."""
    if not _tensors(entry):
        return (
            "must be a number, which Keras takes once, in compile; only weights of side losses change with the epochs"
        )
    if "weight" in getattr(entry.target, "metric_names", ()):
        return f"must be a number: loss '{entry.name}' has a metric 'weight', and the logs have one of that name"
    return ""


def _reference(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a node or node/port")
    return value


@dataclass(frozen=True)
class _LossCheck:
    outputs: Mapping[str, Tree]
    graph: Graph
    known: Known
    report: Report

    def _allowed(self, entry: Entry) -> Arguments:
        if self.known.is_source:  # not to be kept longer than the sources that were read
            return _arguments(entry, entry.arguments.values())
        return _registered_arguments(entry)

    def read(self, name: str, tree: Tree) -> OutputLoss | NamedSideLoss | None:
        written = tree.entries().get("loss")
        entry = self._entry(written)
        allowed = self._allowed(entry) if entry else None
        entries = self.report.as_meant(tree, allowed, LossKeys.model_fields) if allowed else tree.entries()
        head = tree.with_value({key: entry for key, entry in entries.items() if key in LossKeys.model_fields})
        wrong = bool(self.report.add_values(LOSS, head)) or any(tree.failures())
        if entry is None or allowed is None:
            return None
        takes = _tensors(entry)
        if not takes and self.outputs and name not in self.outputs:
            self.report.add_missing(tree, f"no output is called '{name}'. {suggest(name, self.outputs)}")
        own = tree.with_value({key: each for key, each in entries.items() if key not in LossKeys.model_fields})
        problems = self.report.add_values(allowed, own)
        wrong = bool(problems) or any(own.failures()) or wrong
        arguments = {key: each.plain() for key, each in own.entries().items() if key not in takes}
        weight: float | Ramp = 1.0 if wrong else LOSS.convert(head.plain()).weight
        if isinstance(weight, Ramp) and (problem := _ramp_problem(entry)):
            self.report.add(entries["weight"], problem)
            wrong, weight = True, 1.0
        if takes:
            return self._side_loss(name, tree, entry, own, arguments, weight, wrong)
        if wrong or isinstance(weight, Ramp):
            return None
        return self._output_loss(tree, OutputLoss(entry.name, arguments, weight))

    def _entry(self, written: Tree | None) -> Entry | None:
        if written is None or not isinstance(written.value, str):
            return None
        losses = self.known.losses
        if written.value not in losses:
            self.report.add(written, f"no loss is called '{written.value}'. {suggest(written.value, losses)}")
            return None
        entry = losses[written.value]
        self.report.warn_if_renamed(written, written.value, entry.name)
        return entry

    def _output_loss(self, tree: Tree, loss: OutputLoss) -> OutputLoss | None:
        if self.known.is_source:
            if loss.arguments:  # the defaults go together
                self.known.leave_to_keras()
            return loss
        try:
            loss.make()
        except ValueError as error:
            self.report.add(tree, str(error))
            return None
        return loss

    def _side_loss(
        self,
        name: str,
        tree: Tree,
        entry: Entry,
        own: Tree,
        arguments: Mapping[str, Any],
        weight: float | Ramp,
        wrong: bool,
    ) -> NamedSideLoss | None:
        problem = self._name_problem(name)
        if problem:
            self.report.add(tree, problem)
        takes = _tensors(entry)
        written = {key: own.entries()[key] for key in takes if key in own.entries() and key != LABELS}
        found = {key: self.graph.reference(each) for key, each in written.items() if isinstance(each.value, str)}
        labels, labels_of = self._labels(own) if LABELS in takes else ("", "")
        tensors = {key: reference for key, reference in found.items() if reference}
        if problem or wrong or len(tensors) < len(set(takes) - {LABELS}) or (LABELS in takes and not labels):
            return None
        return NamedSideLoss(name, entry.name, tensors, labels, labels_of, arguments, weight, tree)

    def _name_problem(self, name: str) -> str:
        if name in self.outputs:
            return (
                f"'{name}' is an output, whose loss compares it with the labels; this loss uses tensors that it "
                "names: give it another name"
            )
        if name == "val" or name.startswith("val_"):
            return f"'{name}' is not a valid name for a loss: '{name}_loss' would look like a metric of the validation"
        return self.graph.name_problem(name)

    def _labels(self, own: Tree) -> tuple[str, str]:
        """The reference to labels, and the output that they belong to; empty after an error."""
        entry = own.entries().get(LABELS, own.with_value(LABELS))
        if entry.value is FAILED or not self.outputs:
            return "", ""
        allowed = {f"{LABELS}/{output}": output for output in self.outputs}
        if len(self.outputs) == 1:
            allowed[LABELS] = next(iter(self.outputs))
        if entry.value in list(allowed):
            return entry.value, allowed[entry.value]
        if entry.value == LABELS:
            text = f"the model has several outputs; say whose labels these are. {suggest('', allowed)}"
        else:
            hint = suggest(str(entry.value), allowed)
            text = f"must name the labels; received {shown(entry.plain())}. {hint}"
        self.report.add(entry, text)
        return "", ""
