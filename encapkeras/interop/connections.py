"""How the nodes of a model with weights follow one another: the original's modules have no other connections."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from encapkeras.errors import CheckpointError
from encapkeras.graph.check import Node, Reference
from encapkeras.graph.model import SpecModel

HAVE_COUNTERPARTS = (
    "The original has counterparts for a chain of conv_bn_relu, capsule_stage, capsule_convolution, dynamic_capsules "
    "and em_capsules that ends in capsule_dense, dynamic_capsules, em_capsules or keras.Dense; for a conv_bn_relu that "
    "gives em_capsules its activations; for optimal_transport losses on that chain; for the CapsNet of one "
    "conv_bn_relu, primary_capsules with batch norm and a routing layer; and for a ResNet of two-convolution blocks "
    "such as resnet14. Layers without weights may stand anywhere."
)


def no_counterpart(model: SpecModel, problems: list[str]) -> CheckpointError:
    """The error for parts of a network that the original does not have."""
    listed = "\n".join(f"  {problem}" for problem in problems)
    return CheckpointError(
        f"network '{model.name}' cannot be given the names of the original code:\n{listed}\n{HAVE_COUNTERPARTS}"
    )


@dataclass(frozen=True)
class Place:
    """A node of a model, and its layer.

    Args:
        node: The node.
        layer: Its layer.
    """

    node: Node
    layer: keras.layers.Layer

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    def __str__(self) -> str:
        return f"node '{self.node.name}' ({self.node.layer})"


class Connections:
    """The places of a model, and the way back from each tensor.

    Args:
        model: A model made from a spec.
    """

    def __init__(self, model: SpecModel) -> None:
        self.model = model
        self.places = {node.name: Place(node, layer) for node, layer in model.nodes()}

    def output(self) -> Place:
        """What makes the only output.

        Raises:
            CheckpointError: There are several outputs, or no node with weights is behind it.
        """
        outputs = self.model.spec["model"]["outputs"]
        if len(outputs) != 1:
            raise no_counterpart(self.model, [f"it has the outputs {', '.join(outputs)}; the original has one"])
        place = self.behind(self.reference(next(iter(outputs.values()))))
        if place is None:
            raise no_counterpart(self.model, ["it has no weights"])
        return place

    def behind(self, reference: Reference) -> Place | None:
        """The nearest place that made a tensor and has weights or joins several tensors; None for an input."""
        place = self.places.get(reference.node)
        while place is not None and not place.layer.weights and len(place.node.inputs) == 1:
            place = self.places.get(place.node.inputs[0].node)
        return place

    def with_weights(self) -> dict[str, Place]:
        """The places that have weights, by name."""
        return {name: place for name, place in self.places.items() if place.layer.weights}

    @staticmethod
    def reference(text: str) -> Reference:
        """The reference that a spec writes as `node` or `node/port`."""
        return Reference(*text.split("/"))
