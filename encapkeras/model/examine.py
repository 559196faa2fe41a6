"""A spec with its shapes: the layers are made without weights, and called on tensors without values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import keras

from encapkeras.model.build import BuiltGraph, build_nodes, build_side_losses
from encapkeras.model.pretrained import check_pretrained
from encapkeras.model.shape_warnings import warn_about_shapes
from encapkeras.spec.load import Reading, Source, merge, read
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec
from encapkeras.spec.sweep import Variant
from encapkeras.spec.tree import Tree


def check_spec(source: Source, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec and check everything, shapes included, without making weights.

    Arguments and errors are those of `load_spec`.

    Examples:
        >>> check_spec("quickstart").name
        'quickstart'
    """
    return examine_spec(source, overrides).spec


class Examined(NamedTuple):
    """A spec without errors, and its layers and tensors without numbers.

    Attributes:
        spec: The spec, with its warnings.
        graph: The layers, whose weights have shapes and no values, and symbolic tensors; equal nodes share a layer.
        variants: The networks of its sweep; none without one.
    """

    spec: Spec
    graph: BuiltGraph
    variants: Sequence[Variant]


def examine_spec(source: Source, overrides: Sequence[str] = (), *, pretrained: bool = True) -> Examined:
    """As `check_spec`; also return the layers and tensors that the shapes were checked with, and a sweep's networks.

    Without `pretrained`, files of pretrained weights are not looked at: they may be gone.

    Examples:
        >>> examine_spec("quickstart").graph.inputs["image"].shape
        (None, 32, 32, 1)
    """
    if isinstance(source, Spec) and not overrides and not source.sweep:
        report = Report()
        graph = _without_numbers(source, report, pretrained)
        report.raise_if_any()
        return Examined(source, graph, [])
    reading = read(*merge(source, overrides))
    graph = _without_numbers(reading, reading.report, pretrained)
    variants = reading.variants(partial(_checked, pretrained=pretrained))
    reading.report.raise_if_any()
    return Examined(reading.spec(partial(warn_about_shapes, graph)), graph, variants)


def _without_numbers(source: Spec | Reading, report: Report, pretrained: bool) -> BuiltGraph:
    """The layers, whose weights have no numbers, and tensors; reports shapes that do not fit."""
    with keras.device("meta"):
        graph = build_nodes(source.nodes, source.inputs, report, {}, share=True)
        build_side_losses(graph, source.side_losses, source.outputs, report, {})
    if pretrained:
        check_pretrained(source, graph, report)
    return graph


def _checked(merged: Tree, report: Report, pretrained: bool) -> Spec | None:
    """A network of a sweep, shapes included; None after errors."""
    reading = read(merged, report)
    graph = _without_numbers(reading, report, pretrained)
    return None if report.problems() else reading.spec(partial(warn_about_shapes, graph))
