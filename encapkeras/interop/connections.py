"""The connections of nodes with weights, compared with those of the original's modules."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from encapkeras.errors import CheckpointError
from encapkeras.layers import EmCapsules
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.nodes import Node, Reference

HAVE_COUNTERPARTS = (
    "The original has counterparts for a chain of conv_bn_relu, capsule_stage, capsule_convolution, dynamic_capsules "
    "and em_capsules that ends in capsule_dense, dynamic_capsules, em_capsules or keras.Dense; for a conv_bn_relu that "
    "gives em_capsules its activations; for optimal_transport losses on that chain; for the CapsNet of one "
    "conv_bn_relu, primary_capsules with batch norm and a routing layer; and for a ResNet of two-convolution blocks "
    "such as resnet14. Layers without weights that take one tensor may stand anywhere. Or nodes are called as the "
    "modules of a PyTorch code, and those with weights are convolutions, batch norms, dense layers and conv_bn_relu."
)
REARRANGING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)
_ONE_PORT = "the original's modules have one output, that without a port"


def no_counterpart(model: SpecModel, problems: list[str], known: str = HAVE_COUNTERPARTS) -> CheckpointError:
    """Make the error for parts of a network that the original does not have; `known` says what it has."""
    listed = "\n".join(f"  {problem}" for problem in problems)
    return CheckpointError(f"network '{model.name}' cannot be given the names of the original code:\n{listed}\n{known}")


class LackingError(Exception):
    """Why a place has no counterpart; gathered, and shown together."""


@dataclass(frozen=True)
class Place:
    """A node of a model, and its layer."""

    node: Node
    layer: keras.layers.Layer

    @property
    def name(self) -> str:
        """Return the node's name."""
        return self.node.name

    def __str__(self) -> str:
        return f"node '{self.node.name}' ({self.node.layer})"


class Connections:
    """The places of a model, and the way back from each tensor."""

    def __init__(self, model: SpecModel) -> None:
        self.model = model
        self.places = {node.name: Place(node, layer) for node, layer in model.nodes()}

    def output(self) -> Place:
        """Return the place of the only output; raise CheckpointError if there are several, or it has no weights."""
        outputs = self.model.spec["model"]["outputs"]
        if len(outputs) != 1:
            raise no_counterpart(self.model, [f"it has the outputs {', '.join(outputs)}; the original has one"])
        place = self.behind(self.reference(next(iter(outputs.values()))))
        if place is None:
            raise no_counterpart(self.model, ["it has no weights"])
        return place

    def behind(self, reference: Reference) -> Place | None:
        """Return the nearest place before a tensor that has weights or joins tensors; None for an input."""
        place = self.places.get(reference.node)
        while place is not None and not place.layer.weights and len(place.node.inputs) == 1:
            place = self.places.get(place.node.inputs[0].node)
        return place

    def obstacles(self) -> list[str]:
        """List connections that the original does not have, which the weights alone would not show."""
        (output,) = self.model.spec["model"]["outputs"].values()
        problems = [f"the output is '{output}'; {_ONE_PORT}"] if self.reference(output).port != "out" else []
        for place in self.places.values():
            for position, reference in enumerate(place.node.inputs):
                activations = position == 1 and isinstance(place.layer, EmCapsules)
                if reference.port != "out" and not activations:
                    problems.append(f"{place} takes '{reference}'; {_ONE_PORT}")
            if isinstance(place.layer, REARRANGING) and is_map(place.layer.input.shape):
                problems.append(rearranging(place))
        return problems

    def with_weights(self) -> dict[str, Place]:
        """Return the places that have weights, by name."""
        return {name: place for name, place in self.places.items() if place.layer.weights}

    @staticmethod
    def reference(text: str) -> Reference:
        """Parse a reference `node` or `node/port`."""
        return Reference(*text.split("/"))


def is_map(shape: tuple[int | None, ...]) -> bool:
    """Return whether a tensor is an image or a map of capsules of more than one position."""
    return len(shape) in (4, 5) and tuple(shape[1:3]) != (1, 1)


def rearranging(place: Place) -> str:
    """Say that a place takes a map apart otherwise than the original would."""
    return (
        f"{place} takes a map of shape {place.layer.input.shape[1:]}, whose numbers the original has in another order, "
        "channel by channel; pool it to 1x1 first, such as by keras.GlobalAveragePooling2D"
    )
