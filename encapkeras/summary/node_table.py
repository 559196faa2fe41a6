"""The table of a network's nodes and their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from encapkeras.model.examine import Examined
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.losses import NamedSideLoss
from encapkeras.spec.nodes import Node, Reference
from encapkeras.spec.reachable import reached

SIDE_LOSS = "losses."
"""The prefix of side losses' names among nodes."""


@dataclass(frozen=True)
class NodeRow:
    """One node of a network, or one side loss.

    Args:
        name: Its name; `losses.NAME` for a side loss.
        layer: Its `layer`, or `loss`, in the spec.
        inputs: What it is called on.
        output_shape: Its output shape without the batch; empty for a side loss, whose output is one number.
        weights: How many trainable parameters it has.
        fixed_weights: How many non-trainable ones: moving statistics, or all weights of a frozen node.
        roles: What each of `inputs` is to a side loss, such as `latent`; empty for a node.
        arguments: The arguments of the layer, or loss, as in the spec.
        doc: Its `doc` in the spec.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    output_shape: tuple[int | None, ...]
    weights: int
    fixed_weights: int
    roles: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""

    @property
    def is_loss(self) -> bool:
        """Whether it is a side loss."""
        return bool(self.roles)

    @property
    def block(self) -> str:
        """The instance of a block that the node belongs to, such as `block3`; empty for none."""
        return "" if self.is_loss else self.name.rpartition(".")[0]


def node_table(network: SpecModel | Examined) -> list[NodeRow]:
    """Return the nodes of a network, each after those that it depends on, then its side losses.

    Args:
        network: A model built from a spec, or the result of `examine_spec`, which has no weights.

    Examples:
        >>> import encapkeras
        >>> node_table(encapkeras.build_model("quickstart"))[0].inputs
        ('image',)
    """
    network = examined(network)
    spec, graph = network.spec, network.graph
    rows = []
    for node in reached_nodes(network):
        shape = tuple(graph.tensors[Reference(node.name)].shape[1:])
        inputs = tuple(map(str, node.inputs))
        counts = _counts(graph.layers[node.name])
        row = NodeRow(node.name, node.layer, inputs, shape, *counts, (), node.arguments, node.settings.doc)
        rows.append(row)
    return rows + [_loss_row(loss, graph.side_losses[loss.name]) for loss in spec.side_losses]


def unused_nodes(network: SpecModel | Examined) -> list[str]:
    """Return the names of a spec's nodes that reach no output and no side loss: checked, but not part of the model.

    Args:
        network: A model built from a spec, or the result of `examine_spec`.

    Examples:
        >>> import encapkeras
        >>> unused_nodes(encapkeras.build_model("quickstart"))
        []
    """
    network = examined(network)
    names = reached(network.spec)
    return [name for name in network.spec.resolved["model"]["nodes"] if name not in names]


def parameters(network: SpecModel | Examined) -> int:
    """Return the number of trainable parameters, without moving statistics and frozen nodes."""
    return sum(row.weights for row in node_table(network))


def examined(network: SpecModel | Examined) -> Examined:
    """Return the spec of a network with its layers and tensors."""
    return network.examined if isinstance(network, SpecModel) else network


def reached_nodes(network: Examined) -> list[Node]:
    """Return the nodes that reach an output or a side loss, each after those that it depends on."""
    names = reached(network.spec)
    return [node for node in network.spec.nodes if node.name in names]


def _loss_row(loss: NamedSideLoss, layer: keras.layers.Layer) -> NodeRow:
    roles, inputs = tuple(loss.references), tuple(loss.references.values())
    return NodeRow(SIDE_LOSS + loss.name, loss.loss, inputs, (), *_counts(layer), roles, loss.arguments)


def _counts(layer: keras.layers.Layer) -> tuple[int, int]:
    trained, fixed = (
        sum(math.prod(variable.shape) for variable in variables)
        for variables in (layer.trainable_weights, layer.non_trainable_weights)
    )
    return trained, fixed
