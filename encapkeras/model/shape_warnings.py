"""Warnings that need the shapes of a network."""

from __future__ import annotations

from encapkeras.model.build import BuiltGraph
from encapkeras.spec.losses import OutputLoss
from encapkeras.spec.nodes import Reference
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec
from encapkeras.spec.tree import Tree


def warn_about_shapes(graph: BuiltGraph, spec: Spec, written: Tree, report: Report) -> None:
    """Warn about capsules of one dimension, and an input or output that does not have the size of the data set."""
    for node in spec.nodes:
        shape = graph.tensors[Reference(node.name)].shape
        squashes = getattr(node.kind.target, "squashes", False)
        if squashes and node.arguments.get("squash", True) and len(shape) > 2 and shape[-1] == 1:
            place = node.tree.entries().get("dim", node.tree)
            text = "these capsules have dimension 1: squash leaves one number of each, and no direction to agree on"
            report.warn(place, f"{text}. Give 'dim' 2 or more.")
    info, outputs = spec.info, spec.outputs
    for name, shape in spec.inputs.items():
        if info and len(spec.inputs) == 1 and not info.fits(shape):
            text = f"takes {tuple(shape)}, and the {info.samples} of the data set are {info.input_shape}"
            report.warn(written.deepest("model", "inputs", name), f"{text}: 'encapkeras train' refuses that.")
    for name, loss in spec.losses.items():
        if not info or not isinstance(loss, OutputLoss):
            continue
        made = tuple(graph.tensors[outputs[name]].shape[1:])
        if len(outputs) == 1 and not info.takes(made):
            pixels = info.task == "segments"
            due = f"masks of {info.output_shape[:2]} pixels and " if pixels else ""
            text = f"outputs {made}, and the data set has {due}{info.classes} classes: 'encapkeras train' refuses that"
            each = "each class of each pixel" if pixels else "each class"
            report.warn(written.deepest("model", "outputs", name), f"{text}. Make one score for {each}.")
        if info.classes_per_image > 1 and not getattr(loss.make(), "several_classes", False):
            text = (
                f"data.overlap gives each image {info.classes_per_image} classes, and this loss is of images with one"
            )
            report.warn(
                written.deepest("losses", name), f"{text}: 'encapkeras train' refuses that. Use the loss margin."
            )
