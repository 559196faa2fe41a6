"""The steps one after the other: a file, or plain data, becomes a `Spec`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.errors import ArgumentError, suggest
from encapkeras.spec.blocks import read_blocks
from encapkeras.spec.expand import Expansion
from encapkeras.spec.inherit import Inheritance, cleaned, override
from encapkeras.spec.known import Known, registered
from encapkeras.spec.losses import NamedSideLoss, OutputLoss, read_losses
from encapkeras.spec.nodes import Graph, Node, Reference, is_name
from encapkeras.spec.parse import OWN_KEYS, load_data, load_file
from encapkeras.spec.report import Report
from encapkeras.spec.sections import MODEL, NOT_IN_NAMES, TOP_LEVEL, Shape, Size, TopLevel
from encapkeras.spec.settings import DATA, check_class_weights, read_data, read_settings
from encapkeras.spec.spec import Spec
from encapkeras.spec.spec_files import find_spec
from encapkeras.spec.sweep import Sweep, Variant, read_sweep, read_variants
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import FACTS, Scope, UnknownName, Variables, check_variable_name, substitute
from encapkeras.spec.warnings import warn_about_settings, warn_about_unread_names, warn_about_unused_nodes
from encapkeras.validation import Checker, shown

_TRAIN = Checker(TrainSettings)
_SHAPE = Checker(Shape)
_SIZE = Checker(Size)
_INPUTS = {"sequences": "{sequence: [$width, $channels]}", "vectors": "{vector: [$channels]}"}  # by kinds of samples

Source = str | os.PathLike[str] | Mapping[str, Any] | Spec


def load_spec(source: Source, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec and check all of it but the shapes.

    Args:
        source: A YAML or JSON file, the name of a bundled spec (`quickstart`), plain data, or a spec.
        overrides: Texts `path.to.key=value`, as `--set` takes them.

    Raises:
        ArgumentError: `source` or `overrides` has another type.
        SpecError: The spec has errors: all of them, with their places.

    Examples:
        >>> load_spec("quickstart", ["train.epochs=3"]).train.epochs
        3
    """
    if isinstance(source, Spec) and not overrides:
        return source
    reading = read(*merge(source, overrides))
    reading.report.raise_if_any()
    return reading.spec()


@dataclass(frozen=True)
class _Sections:
    """The sections as written, and what computes the variables in them."""

    tree: Tree
    scope: Variables
    report: Report

    def written(self, key: str) -> Tree:
        """A section as written; an empty map if it is missing."""
        absent = Tree({}, self.tree.file, self.tree.line, self.tree.column, key)
        return self.tree.entries().get(key, absent)

    def computed(self, key: str) -> Tree:
        """A section with values for variables."""
        return substitute(self.written(key), self.scope, self.report)


@dataclass(frozen=True)
class _Data:
    settings: DataSettings | None
    info: DatasetInfo | None


@dataclass(frozen=True)
class _Model:
    """What the section `model` holds; `order` has the nodes' names in the order of writing."""

    inputs: Mapping[str, Sequence[int | None]]
    graph: Graph
    order: Sequence[str]
    written_outputs: Mapping[str, Tree]
    outputs: Mapping[str, Reference]
    unused_blocks: frozenset[str]


@dataclass(frozen=True)
class Reading:
    """A spec as far as it could be read; `report` has its errors."""

    merged: Tree
    report: Report
    sections: _Sections
    data: _Data
    sweep: Sweep | None
    model: _Model
    losses: Mapping[str, OutputLoss | NamedSideLoss]
    train: TrainSettings
    name: str

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """The shapes of the model's inputs, without the batch."""
        return self.model.inputs

    @property
    def outputs(self) -> Mapping[str, Reference]:
        """The tensor behind each output."""
        return self.model.outputs

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes, each after those that it needs."""
        return self.model.graph.nodes

    @property
    def side_losses(self) -> list[NamedSideLoss]:
        """The losses on tensors inside the network."""
        return [loss for loss in self.losses.values() if isinstance(loss, NamedSideLoss)]

    def spec(self, warn_more: Callable[[Spec, Tree, Report], None] | None = None) -> Spec:
        """The spec, if there are no errors; `warn_more` adds the warnings that need more than the text."""
        spec = Spec(
            name=self.name,
            source=self.sections.tree.file,
            data=self.data.settings,
            train=self.train,
            info=self.data.info,
            inputs=self.inputs,
            outputs=self.outputs,
            nodes=self.nodes,
            losses=self.losses,
            resolved=self._resolved(),
            sweep=self.sweep.section if self.sweep else None,
            written=self.merged if self.sweep else None,
        )
        tree = self.sections.tree
        warn_about_unused_nodes(spec, self.report)
        warn_about_settings(spec, tree, self.report)
        warn_about_unread_names(tree, self.sections.scope.unread(), self.model.unused_blocks, self.report)
        if warn_more:
            warn_more(spec, tree, self.report)
        return dataclasses.replace(spec, warnings=self.report.warnings())

    def variants(self, read_variant: Callable[[Tree, Report], Spec | None]) -> list[Variant]:
        """The networks of the sweep; their errors go to the report."""
        return read_variants(self.sweep, self.merged, self.report, read_variant) if self.sweep else []

    def _resolved(self) -> dict[str, Any]:
        order = {name: position for position, name in enumerate(self.model.order)}
        nodes = sorted(self.nodes, key=lambda node: order[node.name])
        model = {
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "nodes": {node.name: node.resolved() for node in nodes},
            "outputs": {name: str(reference) for name, reference in self.outputs.items()},
        }
        data = self.data.settings
        sections = {
            "spec": TopLevel.model_fields["spec"].default,
            "name": self.name,
            "source": self.sections.written("source").value or None,
            "data": data.model_dump(mode="json", exclude_none=True) if data else None,
            "model": model,
            "losses": {name: loss.resolved() for name, loss in self.losses.items()} or None,
            "train": self.train.model_dump(mode="json", exclude_none=True),
            **{key: entry.plain() for key, entry in self.merged.entries().items() if key.startswith(OWN_KEYS)},
        }
        return {key: section for key, section in sections.items() if section is not None}


def read(merged: Tree, report: Report, known: Known | None = None) -> Reading:
    """Read the sections of a merged spec, each with what those before it gave; errors go to the report.

    Nodes and losses are those `known`; those that are registered if it is None.
    """
    known = known or registered()
    tree = _without_schema_key(cleaned(merged), report)
    report.add_values(TOP_LEVEL, tree)
    report.add_unknown_nulls(TOP_LEVEL, merged)
    for key, checker in (("data", DATA), ("model", MODEL), ("train", _TRAIN)):
        if key in merged.entries():
            report.add_unknown_nulls(checker, merged.entries()[key])
    facts = Scope({})
    variables = tree.entries().get("vars")
    sections = _Sections(tree, Variables(variables.entries() if variables else {}, facts, report), report)
    data = _read_data(sections, facts)
    sweep = read_sweep(merged, sections.scope, report)
    model = _read_model(sections, data.info, known)
    losses = _read_losses(sections, model, known)
    train = read_settings(_TRAIN, sections.computed("train"), report)
    check_class_weights(train, data.info, sections.written("train"), report)
    _check_learning_rates(train, sections.written("train"), model.graph, report)
    return Reading(merged, report, sections, data, sweep, model, losses, train, _read_name(sections))


def _without_schema_key(tree: Tree, report: Report) -> Tree:
    """The spec without `$schema`, where editors look for the schema of a JSON file."""
    schema = tree.entries().get("$schema")
    if schema is None:
        return tree
    if not isinstance(schema.value, str) and schema.value is not FAILED:
        report.add(schema, f"must be the path or URL of a JSON schema; received {shown(schema.plain())}")
    return tree.with_value({key: entry for key, entry in tree.entries().items() if key != "$schema"})


def _read_data(sections: _Sections, facts: Scope) -> _Data:
    """Read the data set first, for variables may use its facts; then compute the variables."""
    given = "data" in sections.tree.entries()
    for name, value in sections.written("vars").entries().items():
        check_variable_name(name, value, sections.report)
        if name in FACTS and given:
            sections.report.add(value, f"'{name}' comes from the data set; choose another name")
    settings, info = read_data(sections.computed("data"), sections.report) if given else (None, None)
    if given:
        values = {name: getattr(info, name) if info else FAILED for name in FACTS}
        section = sections.written("data")
        places = dict.fromkeys(("height", "width"), section.entries().get("image_size", section))
        facts.define({name: places.get(name, section).with_value(value) for name, value in values.items()})
    sections.scope.compute_all()
    return _Data(settings, info)


def _read_model(sections: _Sections, info: DatasetInfo | None, known: Known) -> _Model:
    scope, report, written = sections.scope, sections.report, sections.written("model")
    model = {key: e if key == "nodes" else substitute(e, scope, report) for key, e in written.entries().items()}
    tree = written.with_value(model)
    if "model" in sections.tree.entries() and isinstance(written.value, dict):
        report.add_values(MODEL, tree)
    inputs = model["inputs"].entries() if "inputs" in model else {"image": _image(sections, info, tree)}
    _check_names(inputs, "an input", report)
    shapes = {
        name: shape.plain()
        for name, shape in inputs.items()
        if is_name(name) and not shape.failed and not _SHAPE.problems(shape.plain())
    }
    blocks = read_blocks(sections.written("blocks"), report)
    expansion = Expansion(scope, blocks, report)
    expansion.expand(model.get("nodes", tree.with_value({})), list(inputs))
    graph = Graph(expansion, inputs, model.get("defaults", tree.with_value({})), known, report)
    outputs = model["outputs"].entries() if "outputs" in model else {}
    _check_names(outputs, "an output", report)
    references = {name: graph.reference(node) for name, node in outputs.items() if isinstance(node.value, str)}
    return _Model(
        inputs=shapes,
        graph=graph,
        order=list(expansion.nodes),
        written_outputs=outputs,
        outputs={name: reference for name, reference in references.items() if reference},
        unused_blocks=frozenset(blocks) - set(expansion.uses.values()),
    )


def _read_losses(sections: _Sections, model: _Model, known: Known) -> Mapping[str, OutputLoss | NamedSideLoss]:
    written = sections.computed("losses")
    losses = read_losses(written, model.written_outputs, model.graph, known, sections.report)
    if len(losses) == len(written.entries()):  # a loss with an error may be meant to use an input
        model.graph.add_unused_inputs()
    return losses


def _check_learning_rates(train: TrainSettings | None, written: Tree, graph: Graph, report: Report) -> None:
    """Add an error for each pattern that matches no node, unless it may be meant for a node with an error."""
    if not train or graph.failed or not report.whole:
        return
    names = [node.name for node in graph.nodes]
    for pattern in train.learning_rates or ():
        if names and not any(fnmatchcase(name, pattern) for name in names):
            text = f"no node matches '{pattern}'. {suggest(pattern, names)}"
            report.add(written.deepest("learning_rates", pattern), text)


def _image(sections: _Sections, info: DatasetInfo | None, model: Tree) -> Tree:
    place = Tree(FAILED, model.file, model.line, model.column, "model")
    try:
        sizes = {name: sections.scope.lookup(name) for name in ("height", "width", "channels")}
    except UnknownName:
        if isinstance(sections.written("model").value, dict) and "model" in sections.tree.entries():
            text = "without 'data' the model needs 'inputs', for example {image: [32, 32, 3]}"
            sections.report.add_missing(place, text)
        return place
    if any(any(size.failures()) for size in sizes.values()):
        return place
    if info and info.samples != "images":
        text = f"the data set has {info.samples}, so the model needs 'inputs', for example {_INPUTS[info.samples]}"
        sections.report.add_missing(place, text)
        return place
    for name, size in sizes.items():
        for problem in _SIZE.problems(size.plain()):
            sections.report.add(size, f"the {name} of the images {problem.text}")
            return place
    return place.with_value(list(sizes.values()))


def _check_names(entries: Mapping[str, Tree], what: str, report: Report) -> None:
    for name, entry in entries.items():
        if not is_name(name):
            report.add(entry, f"'{name}' is not a valid name for {what}")


def _read_name(sections: _Sections) -> str:
    name = sections.computed("name").value
    if isinstance(name, str) and NOT_IN_NAMES.search(name):  # another type is reported already
        text = f"'{name}' may consist of letters, digits, spaces, '_', '-' and '.'"
        sections.report.add(sections.written("name"), text)
    return str(name)


def merge(source: Source, overrides: Sequence[str]) -> tuple[Tree, Report]:
    """A source with what it extends and with `--set`, and the errors in these."""
    if isinstance(overrides, str):
        raise ArgumentError(f"overrides must be a list of texts; write ['{overrides}']")
    report = Report()
    written, file = _written(source, report)
    tree = override(Inheritance(file.parent if file else Path(), report).resolve(written, file), overrides, report)
    name = tree.entries().get("name")
    if name is None or name.value in (None, ""):
        default = NOT_IN_NAMES.sub("-", file.stem) if file else "model"
        tree = tree.with_value({**tree.entries(), "name": tree.with_value(default)})
    return tree, report


def _written(source: Source, report: Report) -> tuple[Tree, Path | None]:
    """A source as a tree, and its file if it is one."""
    if isinstance(source, Spec):
        return source.written or load_data(source.resolved, source.source), None
    if isinstance(source, Mapping):
        return load_data(source, "<dict>"), None
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(f"a spec is a file, the name of a bundled spec, a map, or a Spec; received {shown(source)}")
    path, name = find_spec(source)
    return load_file(path, name, report), path
