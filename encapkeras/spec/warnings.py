"""Last step of reading: what can be built but is surely a slip becomes a warning, with a way to fix it.

What may be meant, such as a weight of 0, gets no warning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.errors import nearest
from encapkeras.spec.one_class import unfit_settings
from encapkeras.spec.reachable import reached
from encapkeras.spec.report import Report
from encapkeras.spec.sections import Ramp
from encapkeras.spec.train_settings import Step, TrainSettings
from encapkeras.spec.tree import Tree

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

MOST_NAMED = 5  # of the nodes that only an unused one needs
MOST_HINTS = 50  # unread variables for which the nearest name is looked for
HEAVY = 10  # weights of transport against those on the classes; see docs/transport.md, also for the next line
LONG = 100  # epochs, of which the first few are a small part


def warn_about_settings(spec: Spec, written: Tree, report: Report) -> None:
    """Warn about values of nodes, `data` and `train`; `written` is the spec with all that it extends and `--set`."""
    _warn_about_dropouts(spec, report)
    _warn_about_frozen_chance(spec, report)
    if spec.data:
        _warn_about_missing_validation(spec.data, spec.train, written, report)
        if spec.info:
            _warn_about_few_images(spec.data, spec.info, written, report)
            for path, text in unfit_settings(spec.data, spec.train, spec.info).items():
                report.warn(written.deepest(*path.split(".")), text)
        _warn_about_single_images(spec, spec.data, written, report)
    _warn_about_heavy_transport(spec, written, report)
    _warn_about_few_epochs(spec, written, report)


def warn_about_unread_names(written: Tree, variables: Collection[str], blocks: Collection[str], report: Report) -> None:
    """Warn about variables and blocks of the spec's own that nothing reads; those of a base may serve other specs."""
    given = _own_entries(written, "vars")
    read = [name for name in written.deepest("vars").entries() if name not in variables]
    for name in (name for name in given if name in variables):
        near = nearest(name, read) if len(variables) <= MOST_HINTS else None
        hint = f"Did you mean '{near}'?" if near and near not in given else f"Write '${name}' somewhere, or remove it."
        report.warn(given[name], f"nothing reads the variable '{name}'. {hint}")
    for name, tree in _own_entries(written, "blocks").items():
        if name in blocks:
            report.warn(tree, f"no node uses the block '{name}'. Remove it, or write 'layer: block.{name}'.")


def _own_entries(written: Tree, section: str) -> Mapping[str, Tree]:
    """The entries of a section that the spec itself, or `--set`, gives."""
    own = (written.file, "--set")
    entries = written.entries().get(section)
    return {name: tree for name, tree in entries.entries().items() if tree.file in own} if entries else {}


def warn_about_unused_nodes(spec: Spec, report: Report) -> None:
    """Warn about nodes that nothing needs, each with those that it alone needs."""
    nodes = {node.name: node for node in spec.nodes}
    known = reached(spec)
    needed = {reference.node for node in nodes.values() for reference in node.inputs}
    for node in nodes.values():
        if node.name in known or node.name in needed:
            continue
        with_it = {node.name: None}
        left = [node]
        while left:
            below = [r.node for r in left.pop().inputs if r.node in nodes and r.node not in known]
            left += [nodes[name] for name in below if name not in with_it]
            with_it.update(dict.fromkeys(below))
        known.update(with_it)
        others = [name for name in with_it if name != node.name]
        report.warn(node.tree, _unused(others[::-1]))


def _unused(others: list[str]) -> str:
    names = others if len(others) <= MOST_NAMED else [*others[:MOST_NAMED], f"{len(others) - MOST_NAMED} more"]
    only = (
        f"; nor {'does' if len(others) == 1 else 'do'} {', '.join(names)}, which nothing else needs" if others else ""
    )
    return (
        f"reaches no output and no side loss, and is not part of the network{only}. Name it in 'inputs', 'outputs' or "
        "a side loss, or remove it (null, if a base has it)."
    )


def _warn_about_dropouts(spec: Spec, report: Report) -> None:
    for node in spec.nodes:
        if node.layer.startswith("keras.") and node.layer.endswith("Dropout") and node.arguments.get("rate") == 1:
            place = node.tree.entries().get("rate", node.tree)
            report.warn(place, "drops everything in training, so that nothing behind it learns. Choose less than 1.")


def _warn_about_frozen_chance(spec: Spec, report: Report) -> None:
    for node in spec.nodes:
        if node.kind.is_backbone and node.settings.trainable is not True and not node.arguments.get("weights"):
            text = "keeps random weights, for it has no 'weights'"
            place = node.tree.entries().get("trainable", node.tree)
            report.warn(place, f"{text}. Name them: imagenet or a file, or train all of it.")


def _warn_about_missing_validation(data: DataSettings, train: TrainSettings, written: Tree, report: Report) -> None:
    if data.has_validation:
        return
    for key, setting in (("early_stopping", train.early_stopping), ("analysis", train.analysis)):
        if setting:
            text = "needs validation images, and data.validation is 0: 'encapkeras train' refuses that"
            report.warn(written.deepest("train", key), f"{text}. Set data.validation above 0, or remove it.")


def _warn_about_few_images(data: DataSettings, info: DatasetInfo, written: Tree, report: Report) -> None:
    if info.train_images is None:
        return
    held_out = 0 if data.validation == "own" else round(data.validation * info.train_images)
    left = info.train_images - held_out
    if data.batch_size > left:
        less = f" ({info.train_images:,} less {held_out:,} for validation)" if held_out else ""
        text = f"a batch of {data.batch_size:,} is more than the {left:,} images to train with{less}"
        place = written.deepest("data", "batch_size")
        report.warn(place, f"{text}: an epoch is one step. Choose at most {left:,}.")
    if data.validation != "own" and data.validation > 0 and held_out < info.classes:
        text = f"holds out {held_out} of {info.train_images:,} images, less than one for each class"
        hint = "Choose more, or 0 for no validation."
        place = written.deepest("data", "validation")
        report.warn(place, f"{text}: chance decides which epoch is the best. {hint}")


def _warn_about_heavy_transport(spec: Spec, written: Tree, report: Report) -> None:
    """Warn about transport that outweighs the losses on the classes from the start, once, at the heaviest."""
    weights = {loss.name: loss.weight_in(0) for loss in spec.side_losses if loss.loss == "optimal_transport"}
    total, on_classes = sum(weights.values()), sum(spec.loss_weights.values())
    epochs = spec.train.epochs
    if not on_classes or total <= HEAVY * on_classes or epochs >= LONG:
        return
    heaviest = max(weights, key=lambda name: weights[name])
    together = f" (all together {total:g})" if len(weights) > 1 else ""
    text = f"with a weight of {weights[heaviest]:g}{together}, transport outweighs the loss on the classes at first"
    ramp = f"{{from: 0, to: {weights[heaviest]:g}, epochs: {min(10, epochs // 3)}}}"
    rising = f", or let it rise: 'weight: {ramp}'" if epochs >= 3 else ""
    hint = f"Choose less, train {LONG} epochs or more{rising}."
    report.warn(written.deepest("losses", heaviest, "weight"), f"{text}. {hint}")


def _warn_about_single_images(spec: Spec, data: DataSettings, written: Tree, report: Report) -> None:
    names = [f"'{loss.name}'" for loss in spec.side_losses if loss.loss == "optimal_transport"]
    if data.batch_size == 1 and names:
        text = f"optimal transport compares the images of a batch; with one image {', '.join(names)} is always 0"
        report.warn(written.deepest("data", "batch_size"), f"{text}. Choose a batch of many images.")


def _warn_about_few_epochs(spec: Spec, written: Tree, report: Report) -> None:
    """Warn about what training ends before; few epochs by `--set` are a trial, which any recipe allows."""
    train = spec.train
    if train.epochs == 1 or written.deepest("train", "epochs").file == "--set":
        return
    if train.early_stopping and train.early_stopping.patience >= train.epochs:
        text = f"a patience of {train.early_stopping.patience} epochs does not end in {train.epochs} epochs"
        place = written.deepest("train", "early_stopping", "patience")
        report.warn(place, f"{text}. Choose less, or remove it.")
    if isinstance(train.schedule, Step) and min(train.schedule.milestones) >= train.epochs:
        text = f"no milestone comes before the last of {train.epochs} epochs, so the learning rate never falls"
        hint = "Choose earlier ones, or another schedule."
        report.warn(written.deepest("train", "schedule", "milestones"), f"{text}. {hint}")
    for loss in spec.side_losses:
        if isinstance(loss.weight, Ramp) and loss.weight.epochs >= train.epochs:
            text = f"the training ends, after {train.epochs} epochs, before the weight is {loss.weight.to:g}"
            place = written.deepest("losses", loss.name, "weight", "epochs")
            report.warn(place, f"{text}. Choose at most {train.epochs - 1}, or train longer.")
