"""Weights that networks of `keras.applications` begin with: checked with the shapes, loaded into a new model."""

from __future__ import annotations

from collections.abc import Callable

from encapkeras.errors import ArgumentError
from encapkeras.layers.backbone import Backbone
from encapkeras.model.build import BuiltGraph
from encapkeras.spec.load import Reading
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec


def check_pretrained(source: Spec | Reading, graph: BuiltGraph, report: Report) -> None:
    """Add an error for each file that is missing, damaged or of another network; nothing is downloaded."""
    _for_each(Backbone.check_weights, source, graph, report)


def load_pretrained(source: Spec | Reading, graph: BuiltGraph, report: Report) -> None:
    """Load the weights of all that have some; a download that fails is an error, too."""
    _for_each(Backbone.load_weights, source, graph, report)


def _for_each(act: Callable[[Backbone], None], source: Spec | Reading, graph: BuiltGraph, report: Report) -> None:
    for node in source.nodes:
        layer = graph.layers.get(node.name)
        if isinstance(layer, Backbone):
            try:
                act(layer)
            except ArgumentError as error:
                report.add(node.tree.entries().get(error.argument, node.tree), str(error))
