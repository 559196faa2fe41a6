"""`Spec`: what the steps of reading make of a file or of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import encapkeras
from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.errors import Problem
from encapkeras.spec.losses import NamedSideLoss, OutputLoss
from encapkeras.spec.nodes import Node, Reference
from encapkeras.spec.sections import SweepSection
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.spec.tree import Tree

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Spec:
    """A spec, read and checked but for the shapes. Two are equal if they mean the same.

    Args:
        name: The network's name.
        source: The file; `<dict>` for plain data.
        data: The data set and its batches; None if the spec names none.
        train: How the network is trained.
        info: The description of the data set; None without one.
        inputs: The shapes of the model's inputs, without the batch.
        outputs: The tensor behind each output.
        nodes: The nodes, each after those that it needs.
        losses: The losses by name: those on outputs, which have the output's, and side losses.
        resolved: The same as plain data: a spec with numbers for variables, `extends` merged, `repeat` and blocks
            expanded.
        warnings: What can be built but is surely a slip, sorted by place; `check_spec`, which knows the shapes, finds
            more of it than `load_spec`.
        sweep: What `compare` trains instead of the spec as it is; None for nothing else.
        written: The spec before any of its steps, of which the sweep's networks are made; None without a sweep.
    """

    name: str = field(compare=False)
    source: str = field(compare=False)
    data: DataSettings | None = field(compare=False)
    train: TrainSettings = field(compare=False)
    info: DatasetInfo | None = field(compare=False)
    inputs: Mapping[str, Sequence[int | None]] = field(compare=False)
    outputs: Mapping[str, Reference] = field(compare=False)
    nodes: Sequence[Node] = field(compare=False)
    losses: Mapping[str, OutputLoss | NamedSideLoss] = field(compare=False)
    resolved: dict[str, Any]
    warnings: Sequence[Problem] = field(compare=False, default=())
    sweep: SweepSection | None = field(compare=False, default=None)
    written: Tree | None = field(compare=False, default=None, repr=False)

    def make_losses(self) -> dict[str, keras.losses.Loss]:
        """A new Keras loss for each output that has one."""
        return {name: loss.make() for name, loss in self.losses.items() if isinstance(loss, OutputLoss)}

    @property
    def loss_weights(self) -> dict[str, float]:
        """What the loss of each output is multiplied by in the sum of all."""
        return {name: loss.weight for name, loss in self.losses.items() if isinstance(loss, OutputLoss)}

    @property
    def side_losses(self) -> list[NamedSideLoss]:
        """The losses on tensors inside the network."""
        return [loss for loss in self.losses.values() if isinstance(loss, NamedSideLoss)]

    def __repr__(self) -> str:
        """The name, the file and the nodes: the rest is long."""
        return f"<Spec '{self.name}' of {self.source}: {', '.join(node.name for node in self.nodes)}>"

    def _repr_html_(self) -> str | None:
        """The picture of the network, which notebooks show."""
        html: str | None = encapkeras.summary.as_html(self)
        return html
