"""Last step of reading: what can be built and is hardly meant becomes a warning, with what to do about it.

A warning is for what is surely a slip. What may be meant, such as a weight of 0 for once, is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from encapkeras.errors import nearest
from encapkeras.spec.reachable import reached
from encapkeras.spec.report import Report
from encapkeras.spec.train_settings import Step
from encapkeras.spec.tree import Tree

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

MOST_NAMED = 5  # of the nodes that serve an unused one
MOST_HINTS = 50  # unread variables for which the nearest name is looked for


class Suspicions:
    """Looks for what is suspicious in a spec without mistakes.

    Args:
        spec: The spec.
        written: The same as written, with all that it extends and `--set`.
        report: Where warnings go.
    """

    def __init__(self, spec: Spec, written: Tree, report: Report) -> None:
        self._spec = spec
        self._written = written
        self._report = report

    def note(self) -> None:
        """Notes what the spec tells without its shapes."""
        self._note_unused_nodes()
        self._note_dropouts()
        self._note_lack_of_validation()
        self._note_sizes_of_data()
        self._note_single_images()
        self._note_what_never_comes()

    def note_unread(self, variables: Collection[str], blocks: Collection[str]) -> None:
        """Notes variables and blocks that nothing reads, where the spec itself gives them.

        What is unread of a base serves other specs that share the base.

        Args:
            variables: The names of those in `vars` that nothing reads.
            blocks: The names of those in `blocks` that no node uses.
        """
        given = self._own("vars")
        read = [name for name in self._at("vars").entries() if name not in variables]
        for name in (name for name in given if name in variables):
            near = nearest(name, read) if len(variables) <= MOST_HINTS else None
            hint = (
                f"Did you mean '{near}'?" if near and near not in given else f"Write '${name}' somewhere, or remove it."
            )
            self._report.warn(given[name], f"nothing reads the variable '{name}'. {hint}")
        for name, tree in self._own("blocks").items():
            if name in blocks:
                self._report.warn(tree, f"no node uses the block '{name}'. Remove it, or write 'layer: block.{name}'.")

    def _at(self, *path: str) -> Tree:
        return self._written.deepest(*path)

    def _own(self, section: str) -> Mapping[str, Tree]:
        """The entries of a section that the spec itself, or `--set`, gives."""
        own = (self._written.file, "--set")
        entries = self._written.entries().get(section)
        return {name: tree for name, tree in entries.entries().items() if tree.file in own} if entries else {}

    def _note_unused_nodes(self) -> None:
        """Notes nodes that nothing needs, each with those that serve it alone."""
        nodes = {node.name: node for node in self._spec.nodes}
        told = reached(self._spec)
        needed = {reference.node for node in nodes.values() for reference in node.inputs}
        for node in nodes.values():
            if node.name in told or node.name in needed:
                continue
            with_it = {node.name: None}
            left = [node]
            while left:
                below = [r.node for r in left.pop().inputs if r.node in nodes and r.node not in told]
                left += [nodes[name] for name in below if name not in with_it]
                with_it.update(dict.fromkeys(below))
            told.update(with_it)
            others = [name for name in with_it if name != node.name]
            self._report.warn(node.tree, _unused(others[::-1]))

    def _note_dropouts(self) -> None:
        for node in self._spec.nodes:
            if node.layer.startswith("keras.") and node.layer.endswith("Dropout") and node.arguments.get("rate") == 1:
                place = node.tree.entries().get("rate", node.tree)
                self._report.warn(
                    place, "drops everything in training, so that nothing behind it learns. Choose less than 1."
                )

    def _note_lack_of_validation(self) -> None:
        data, train = self._spec.data, self._spec.train
        if data is None or data.has_validation:
            return
        for key, setting in (("early_stopping", train.early_stopping), ("analysis", train.analysis)):
            if setting:
                text = "needs validation images, and data.validation is 0: 'encapkeras train' refuses that"
                self._report.warn(self._at("train", key), f"{text}. Set data.validation above 0, or remove it.")

    def _note_sizes_of_data(self) -> None:
        data, info = self._spec.data, self._spec.info
        if data is None or info is None or info.train_images is None:
            return
        held_out = 0 if data.validation == "own" else round(data.validation * info.train_images)
        left = info.train_images - held_out
        if data.batch_size > left:
            less = f" ({info.train_images:,} less {held_out:,} for validation)" if held_out else ""
            text = f"a batch of {data.batch_size:,} is more than the {left:,} images to train with{less}"
            self._report.warn(self._at("data", "batch_size"), f"{text}: an epoch is one step. Choose at most {left:,}.")
        if data.validation != "own" and data.validation > 0 and held_out < info.classes:
            text = f"holds out {held_out} of {info.train_images:,} images, less than one for each class"
            hint = "Choose more, or 0 for no validation."
            self._report.warn(
                self._at("data", "validation"), f"{text}: chance will say which epoch is the best. {hint}"
            )

    def _note_single_images(self) -> None:
        if self._spec.data is None or self._spec.data.batch_size > 1:
            return
        names = [f"'{loss.name}'" for loss in self._spec.side_losses if loss.loss == "optimal_transport"]
        if names:
            text = f"optimal transport compares the images of a batch; with one it is 0, and {', '.join(names)} in vain"
            self._report.warn(self._at("data", "batch_size"), f"{text}. Choose a batch of many images.")

    def _note_what_never_comes(self) -> None:
        """Notes what the training ends before; few epochs by `--set` are a trial, which any recipe allows."""
        train = self._spec.train
        if train.epochs == 1 or self._at("train", "epochs").file == "--set":
            return
        if train.early_stopping and train.early_stopping.patience >= train.epochs:
            text = f"a patience of {train.early_stopping.patience} epochs does not end in {train.epochs} epochs"
            self._report.warn(self._at("train", "early_stopping", "patience"), f"{text}. Choose less, or remove it.")
        if isinstance(train.schedule, Step) and min(train.schedule.milestones) >= train.epochs:
            text = f"no milestone comes before the last of {train.epochs} epochs, so that the learning rate never falls"
            hint = "Choose earlier ones, or another schedule."
            self._report.warn(self._at("train", "schedule", "milestones"), f"{text}. {hint}")


def _unused(others: list[str]) -> str:
    """The message about a node that nothing needs, and those that serve it alone."""
    names = others if len(others) <= MOST_NAMED else [*others[:MOST_NAMED], f"{len(others) - MOST_NAMED} more"]
    only = (
        f"; nor {'does' if len(others) == 1 else 'do'} {', '.join(names)}, which nothing else needs" if others else ""
    )
    return (
        f"reaches no output and no side loss, and is no part of the network{only}. Name it in 'inputs', 'outputs' or a "
        "side loss, or remove it (null, if a base has it)."
    )
