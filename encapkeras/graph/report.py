"""The table of a model's nodes: what stands where, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from encapkeras.graph.model import SpecModel


@dataclass(frozen=True)
class NodeRow:
    """One node of a model, or one side loss.

    Args:
        name: Its name; `losses.NAME` for a side loss.
        layer: What stands behind `layer`, or `loss`, in the spec.
        inputs: What it is called on.
        output_shape: The shape that it makes, without the batch; empty for a side loss.
        weights: How many numbers in it training changes.
        fixed_weights: How many it keeps besides: moving statistics, or all weights of a frozen node.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    output_shape: tuple[int | None, ...]
    weights: int
    fixed_weights: int


def node_table(model: SpecModel) -> list[NodeRow]:
    """The nodes of a model, each after those that it needs, then its side losses.

    The weights of all rows sum to its parameters.

    Args:
        model: A model made from a spec.

    Example:
        >>> import encapkeras
        >>> node_table(encapkeras.build_model("quickstart"))[0].inputs
        ('image',)
    """
    rows = []
    for node, layer in model.nodes():
        inputs = tuple(map(str, node.inputs))
        shape = tuple(model.port(node.name).shape[1:])
        rows.append(NodeRow(node.name, node.layer, inputs, shape, *_counts(layer)))
    for name, loss in model.side_losses.items():
        written = model.spec["losses"][name]
        inputs = tuple(written[tensor] for tensor in loss.tensors())
        rows.append(NodeRow(f"losses.{name}", written["loss"], inputs, (), *_counts(loss)))
    return rows


def unused_nodes(model: SpecModel) -> list[str]:
    """The names of a spec's nodes that reach no output and no side loss: checked, and no part of the model.

    Example:
        >>> import encapkeras
        >>> unused_nodes(encapkeras.build_model("quickstart"))
        []
    """
    used = {node.name for node, _ in model.nodes()}
    return [name for name in model.spec["model"]["nodes"] if name not in used]


def parameters(model: SpecModel) -> int:
    """How many numbers training changes, without moving statistics and frozen nodes."""
    return sum(row.weights for row in node_table(model))


def _counts(layer: keras.layers.Layer) -> tuple[int, int]:
    """How many numbers of a layer training changes, and how many it keeps."""
    return _numbers(layer.trainable_weights), _numbers(layer.non_trainable_weights)


def _numbers(variables: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
