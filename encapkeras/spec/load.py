"""The steps one after the other: a file, or plain data, becomes a `Spec`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.errors import ArgumentError
from encapkeras.spec.blocks import read_blocks
from encapkeras.spec.expand import Expansion
from encapkeras.spec.inherit import OWN_KEYS, Inheritance, cleaned, override
from encapkeras.spec.losses import LossChecks, NamedSideLoss
from encapkeras.spec.nodes import Graph, is_name
from encapkeras.spec.parse import load_data, load_file
from encapkeras.spec.report import Report
from encapkeras.spec.sections import MODEL, NOT_IN_NAMES, TOP_LEVEL, Shape, Size, TopLevel
from encapkeras.spec.settings import read_data, read_settings
from encapkeras.spec.spec import Spec
from encapkeras.spec.spec_files import find_spec
from encapkeras.spec.sweep import Variant, read_sweep, read_variants
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.spec.tree import FAILED, Tree
from encapkeras.spec.variables import FACTS, Scope, UnknownName, Variables, check_variable_name, substitute
from encapkeras.spec.warnings import Suspicions
from encapkeras.validation import Checker, shown

_TRAIN = Checker(TrainSettings)
_SHAPE = Checker(Shape)
_SIZE = Checker(Size)

Source = str | os.PathLike[str] | Mapping[str, Any] | Spec


def load_spec(source: Source, overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec and checks all but the shapes.

    Args:
        source: A YAML or JSON file, the name of a bundled spec (`quickstart`), plain data, or a spec.
        overrides: Texts `path.to.key=value`, as `--set` takes them.

    Returns:
        The spec.

    Raises:
        ArgumentError: `source` or `overrides` is of another type.
        SpecError: It has mistakes: all of them, with their places.

    Example:
        >>> load_spec("quickstart", ["train.epochs=3"]).train.epochs
        3
    """
    if isinstance(source, Spec) and not overrides:
        return source
    reading = Reading(*merged(source, overrides))
    reading.report.raise_if_any()
    return reading.spec()


class Reading:
    """One reading of a spec: what could be read, and the mistakes.

    Args:
        merged: The spec after `extends` and `--set`.
        report: Where mistakes go.
    """

    def __init__(self, merged: Tree, report: Report) -> None:
        self.report = report
        self._merged = merged
        self._own = {key: entry.plain() for key, entry in merged.entries().items() if key.startswith(OWN_KEYS)}
        self._tree = self._without_editors_key(cleaned(merged))
        self.report.add_values(TOP_LEVEL, self._tree)
        self._facts = Scope({})
        self._scope = Variables(self._entry("vars").entries(), self._facts, self.report)
        self._read_data()
        self._sweep = read_sweep(merged, self._scope, report)
        self._read_model()
        self._train = read_settings(_TRAIN, self._section("train"), self.report)
        self._name = self._read_name()

    def spec(self, note_more: Callable[[Spec, Tree, Report], None] | None = None) -> Spec:
        """The spec, once there are no mistakes; `note_more` may note what is suspicious beyond what the text tells."""
        spec = Spec(
            name=self._name,
            source=self._tree.file,
            data=self._data,
            train=self._train,
            info=self._info,
            inputs=self.inputs,
            outputs=self.outputs,
            nodes=self.nodes,
            losses=self._losses,
            resolved=self._resolved(),
            sweep=self._sweep.section if self._sweep else None,
            written=self._merged if self._sweep else None,
        )
        suspicions = Suspicions(spec, self._tree, self.report)
        suspicions.note()
        suspicions.note_unread(self._scope.unread(), self._unused_blocks)
        if note_more:
            note_more(spec, self._tree, self.report)
        return dataclasses.replace(spec, warnings=self.report.warnings())

    def variants(self, read: Callable[[Tree, Report], Spec | None]) -> list[Variant]:
        """The networks of the sweep; notes what is wrong with them."""
        return read_variants(self._sweep, self._merged, self.report, read) if self._sweep else []

    def _without_editors_key(self, tree: Tree) -> Tree:
        """The spec without `$schema`, by which editors find the schema of a file; YAML may say that in a comment."""
        schema = tree.entries().get("$schema")
        if schema is None:
            return tree
        if not isinstance(schema.value, str) and schema.value is not FAILED:
            self.report.add(schema, f"must be the place of a JSON schema; received {shown(schema.plain())}")
        return tree.with_value({key: entry for key, entry in tree.entries().items() if key != "$schema"})

    def _entry(self, key: str) -> Tree:
        """A section as written; an empty map if it is not there."""
        absent = Tree({}, self._tree.file, self._tree.line, self._tree.column, key)
        return self._tree.entries().get(key, absent)

    def _section(self, key: str) -> Tree:
        """A section with values for variables."""
        return substitute(self._entry(key), self._scope, self.report)

    def _read_data(self) -> None:
        """The data set, and what it tells; variables may use that, so that it comes first."""
        self._data: DataSettings | None = None
        self._info: DatasetInfo | None = None
        for name, value in self._entry("vars").entries().items():
            check_variable_name(name, value, self.report)
            if name in FACTS and "data" in self._tree.entries():
                self.report.add(value, f"'{name}' comes from the data set; choose another name")
        if "data" in self._tree.entries():
            self._data, self._info = read_data(self._section("data"), self.report)
            facts = {name: getattr(self._info, name) if self._info else FAILED for name in FACTS}
            section = self._entry("data")
            places = dict.fromkeys(("height", "width"), section.entries().get("image_size", section))
            self._facts.define({name: places.get(name, section).with_value(fact) for name, fact in facts.items()})
        self._scope.compute_all()

    def _read_model(self) -> None:
        written = self._entry("model").entries()
        model = {
            key: entry if key == "nodes" else substitute(entry, self._scope, self.report)
            for key, entry in written.items()
        }
        tree = self._entry("model").with_value(model)
        if "model" in self._tree.entries() and isinstance(self._entry("model").value, dict):
            self.report.add_values(MODEL, tree)
        inputs = model["inputs"].entries() if "inputs" in model else {"image": self._image(tree)}
        self._check_names(inputs, "an input")
        self.inputs = {
            name: shape.plain()
            for name, shape in inputs.items()
            if is_name(name) and not shape.failed and not _SHAPE.problems(shape.plain())
        }
        blocks = read_blocks(self._entry("blocks"), self.report)
        expansion = Expansion(self._scope, blocks, self.report)
        expansion.expand(model.get("nodes", tree.with_value({})), list(inputs))
        self._unused_blocks = set(blocks) - set(expansion.uses.values())
        graph = Graph(expansion, inputs, model.get("defaults", tree.with_value({})), self.report)
        self.nodes = graph.nodes
        self._written_order = list(expansion.nodes)
        self._outputs = model["outputs"].entries() if "outputs" in model else {}
        self._check_names(self._outputs, "an output")
        references = {
            name: graph.reference(node) for name, node in self._outputs.items() if isinstance(node.value, str)
        }
        self.outputs = {name: reference for name, reference in references.items() if reference}
        losses = self._section("losses")
        self._losses = LossChecks(self._outputs, graph, self.report).checked(losses)
        self.side_losses = [loss for loss in self._losses.values() if isinstance(loss, NamedSideLoss)]
        if len(self._losses) == len(losses.entries()):  # else one with a mistake may be meant to use them
            graph.note_unused_inputs()

    def _image(self, model: Tree) -> Tree:
        """The shape of the default input, from the data set or from `vars`."""
        place = Tree(FAILED, model.file, model.line, model.column, "model")
        try:
            sizes = {name: self._scope.lookup(name) for name in ("height", "width", "channels")}
        except UnknownName:
            if isinstance(self._entry("model").value, dict) and "model" in self._tree.entries():
                text = "without 'data' the model needs 'inputs', for example {image: [32, 32, 3]}"
                self.report.add_missing(place, text)
            return place
        if any(any(size.failures()) for size in sizes.values()):
            return place
        for name, size in sizes.items():
            for problem in _SIZE.problems(size.plain()):
                self.report.add(size, f"the {name} of the images {problem.text}")
                return place
        return place.with_value(list(sizes.values()))

    def _check_names(self, entries: Mapping[str, Tree], what: str) -> None:
        for name, entry in entries.items():
            if not is_name(name):
                self.report.add(entry, f"'{name}' is no name for {what}")

    def _read_name(self) -> str:
        name = self._section("name").value
        if name is not FAILED and NOT_IN_NAMES.search(str(name)):
            self.report.add(self._entry("name"), f"'{name}' may consist of letters, digits, spaces, '_', '-' and '.'")
        return str(name)

    def _resolved(self) -> dict[str, Any]:
        order = {name: position for position, name in enumerate(self._written_order)}
        nodes = sorted(self.nodes, key=lambda node: order[node.name])
        model = {
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "nodes": {node.name: node.resolved() for node in nodes},
            "outputs": {name: str(reference) for name, reference in self.outputs.items()},
        }
        sections = {
            "spec": TopLevel.model_fields["spec"].default,
            "name": self._name,
            "source": self._entry("source").value or None,
            "data": self._data.model_dump(mode="json", exclude_none=True) if self._data else None,
            "model": model,
            "losses": {name: loss.resolved() for name, loss in self._losses.items()} or None,
            "train": self._train.model_dump(mode="json", exclude_none=True),
            **self._own,
        }
        return {key: section for key, section in sections.items() if section is not None}


def merged(source: Source, overrides: Sequence[str]) -> tuple[Tree, Report]:
    """A source with what it extends and with `--set`, and the mistakes in that."""
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
