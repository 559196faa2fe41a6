"""Warnings that need the shapes of a network."""

from __future__ import annotations

from encapkeras.data.registry import DatasetInfo
from encapkeras.losses.side_loss import LABELS, SideLoss
from encapkeras.model.build import BuiltGraph
from encapkeras.spec.losses import OutputLoss
from encapkeras.spec.nodes import Reference
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec
from encapkeras.spec.tree import Tree
from encapkeras.text import listed


def warn_about_shapes(graph: BuiltGraph, spec: Spec, written: Tree, report: Report) -> None:
    """Warn about capsules of one dimension, and an input, output or loss that does not fit the data set."""
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
    if info:
        _warn_about_losses(graph, spec, info, written, report)


def _warn_about_losses(graph: BuiltGraph, spec: Spec, info: DatasetInfo, written: Tree, report: Report) -> None:
    for name, loss in spec.losses.items():
        made = loss.make() if isinstance(loss, OutputLoss) else graph.side_losses[name]
        if fault := loss_fault(made, info, "this loss"):
            text, advice = fault
            report.warn(written.deepest("losses", name), f"{text}: 'encapkeras train' refuses that. {advice}")


def loss_fault(loss: object, info: DatasetInfo, called: str) -> tuple[str, str] | None:
    """Return what is wrong with a loss for a data set, so that training refuses it, and what to do; None if nothing."""
    if isinstance(loss, SideLoss) and LABELS not in type(loss).tensors():
        return None
    if info.task == "segments" and not getattr(loss, "pixels", False):
        return (
            f"each pixel of the data set has a class, and {called} is of images with one class",
            "Use the loss margin, cross_entropy or dice on the output, and side losses without labels.",
        )
    weights = None if isinstance(loss, SideLoss) else getattr(loss, "class_weights", None)
    if weights is not None and len(weights) != info.classes:
        return (
            f"class_weights of {called} has {len(weights)} numbers; the data set has {info.classes} classes: "
            f"{listed(info.class_names)}",
            "Give one number for each.",
        )
    count = info.classes_per_image
    if count != 1 and not getattr(loss, "several_classes", False):
        why = f"data.overlap gives each image {count} classes" if count else "images have several labels each"
        return (
            f"{why}, and {called} is of images with one",
            f"Use the loss margin or binary_cross_entropy there{', or remove data.overlap' if count else ''}.",
        )
    return None
