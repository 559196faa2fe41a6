"""The original's names for the weights of a network, from its structure alone: nodes may have any names.

Networks that route in windows, and others whose nodes are called as the modules of their code: see `module_names`.
Networks with self-attention routing: see `efficient_names`.

The released code of EncapNet has `module0`, the stem; `module1` and on, one for each stage, convolution or routing
layer; and `final_cls`, the classifier. `generate_activate` makes EM routing's activations, and `moduleK_ot_loss` is the
optimal-transport unit whose latent tensor is from module K. The CapsNet with two strided convolutions and the ResNet
have the names of earlier versions, the last that could train them: `tranfer_conv` (sic), `layer1`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from encapkeras.errors import CheckpointError
from encapkeras.interop.connections import Connections, Place, no_counterpart
from encapkeras.interop.efficient_names import efficient_tensors, is_efficient
from encapkeras.interop.layer_names import (
    CONVOLUTION_AND_NORM,
    TRANSPORT_UNIT,
    block_tensors,
    convolution_tensors,
    dense_capsule_tensors,
    keras_tensors,
    other_weights,
    routing_tensors,
)
from encapkeras.interop.module_names import module_tensors, routes_in_windows
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.interop.residual_names import is_residual, residual_tensors
from encapkeras.interop.window_names import uncalled_modules
from encapkeras.layers import CapsuleConvolution, CapsuleDense, CapsuleStage, ConvBnRelu, EmCapsules, PrimaryCapsules
from encapkeras.layers.voting_layer import VotingLayer
from encapkeras.losses import OptimalTransport
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.nodes import Reference

_FIRST_CONVOLUTION = {"convolution": "tranfer_conv", "norm": "tranfer_bn"}
_PRIMARY_CAPSULES = {"convolution": "tranfer_conv1", "norm": "tranfer_bn1"}


def original_tensors(model: SpecModel) -> list[OriginalTensor]:
    """Return all tensors of the original's state dict for a model, without counters; an error names all other parts."""
    return namings(model)[0]


def namings(model: SpecModel) -> list[list[OriginalTensor]]:
    """Return the tensors under all names that they may have: those from the structure first, then those of nodes."""
    connections = Connections(model)
    if is_efficient(connections):
        return [efficient_tensors(connections)]
    schemes = [module_tensors] if routes_in_windows(connections) else [_structural_tensors, module_tensors]
    found, errors = [], []
    for scheme in schemes:
        try:
            found.append(scheme(connections))
        except CheckpointError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def uncalled(model: SpecModel) -> tuple[str, ...]:
    """Return beginnings of names of tensors that checkpoints may have although the original never uses them."""
    return uncalled_modules(Connections(model).places.values())


def _structural_tensors(connections: Connections) -> list[OriginalTensor]:
    return residual_tensors(connections) if is_residual(connections) else _Names(connections).tensors()


class _Names:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._chain = self._find_chain()
        self._problems = connections.obstacles()
        self._activations = self._find_activations()

    def tensors(self) -> list[OriginalTensor]:
        capsnet = any(isinstance(place.layer, PrimaryCapsules) for place in self._chain)
        tensors = self._of_capsnet() if capsnet else self._of_modules()
        for place in self._activations:
            if isinstance(place.layer, ConvBnRelu):
                tensors += convolution_tensors(place.layer, "generate_activate.", CONVOLUTION_AND_NORM)
        tensors += self._of_side_losses(() if capsnet else self._chain[:-1])
        named = {place.name for place in [*self._chain, *self._activations]}
        for name, place in self._connections.with_weights().items():
            if name not in named:
                self._lacks(place, "is outside the chain of layers that leads to the output")
        if self._problems:
            raise no_counterpart(self._connections.model, self._problems)
        return tensors

    def _find_chain(self) -> list[Place]:
        """List the places from the first to the output, each called on the output of the one before."""
        place: Place | None = self._connections.output()
        chain: list[Place] = []
        while place is not None:
            chain.insert(0, place)
            place = self._connections.behind(place.node.inputs[0])
        return chain

    def _find_activations(self) -> list[Place]:
        """Return the convolution, if any, whose output EM routing takes as activations of what it routes."""
        found: list[Place] = []
        for before, place in zip(self._chain, self._chain[1:], strict=False):
            for reference in place.node.inputs[1:] if isinstance(place.layer, EmCapsules) else ():
                made_by = self._connections.behind(reference)
                if made_by is None or reference == Reference(before.name, "activations"):
                    continue
                source = self._connections.behind(made_by.node.inputs[0])
                if isinstance(made_by.layer, ConvBnRelu) and source and source.name == before.name and not found:
                    found.append(made_by)
                else:
                    text = "is not a convolution of the capsules' own module" if not found else "is a second one"
                    self._problems.append(f"{made_by} gives {place} its activations, and {text}")
                    found.append(made_by)
        return found

    def _of_modules(self) -> list[OriginalTensor]:
        *body, classifier = self._chain
        tensors = []
        for number, place in enumerate(body):
            if isinstance(place.layer, CapsuleDense | keras.layers.Dense):
                self._lacks(place, "is not the last layer with weights")
            else:
                tensors += self._of_layer(place, f"module{number}.")
        if isinstance(classifier.layer, CapsuleDense):
            tensors += dense_capsule_tensors(classifier.layer, "final_cls.")
        elif isinstance(classifier.layer, keras.layers.Dense) and (others := other_weights(classifier.layer)):
            self._lacks(classifier, others)
        elif isinstance(classifier.layer, keras.layers.Dense):
            tensors += keras_tensors(classifier.layer, "final_cls.")
        elif isinstance(classifier.layer, VotingLayer):
            tensors += self._of_layer(classifier, "final_cls.")
        else:
            self._lacks(classifier, "is in the place of the original's classifier")
        return tensors

    def _of_capsnet(self) -> list[OriginalTensor]:
        layers = [place.layer for place in self._chain]
        kinds = (ConvBnRelu, PrimaryCapsules, VotingLayer)
        fits = len(layers) == 3 and all(isinstance(layer, kind) for layer, kind in zip(layers, kinds, strict=True))
        if not fits or not layers[1].batch_norm:
            strangers = [place for place in self._chain if not isinstance(place.layer, ConvBnRelu | VotingLayer)]
            for place in strangers:
                self._lacks(place)
            return []
        first, primary, _ = layers
        return [
            *convolution_tensors(first, "", _FIRST_CONVOLUTION),
            *convolution_tensors(primary, "", _PRIMARY_CAPSULES),
            *self._of_layer(self._chain[2], "cap_layer."),
        ]

    def _of_layer(self, place: Place, prefix: str) -> list[OriginalTensor]:
        layer = place.layer
        if isinstance(layer, ConvBnRelu):
            return convolution_tensors(layer, prefix, CONVOLUTION_AND_NORM)
        if isinstance(layer, CapsuleStage | CapsuleConvolution):
            return block_tensors(layer, prefix)
        if getattr(layer, "use_output_bias", False):
            self._lacks(place, "has a bias of the outputs (use_output_bias: true)")
            return []
        if isinstance(layer, VotingLayer) and layer.share_positions:
            return routing_tensors(layer, prefix)
        if isinstance(layer, VotingLayer):
            self._lacks(place, "has matrices for each position (share_positions: false)")
        elif not layer.weights:
            self._lacks(place, f"joins {len(place.node.inputs)} tensors; a module of the original takes one")
        else:
            self._lacks(place)
        return []

    def _of_side_losses(self, body: Sequence[Place]) -> list[OriginalTensor]:
        """Return the tensors of optimal-transport units, each named by the module of its latent tensor."""
        model = self._connections.model
        modules = {place.name: number for number, place in enumerate(body)}
        taken: dict[int, str] = {}
        tensors = []
        for name, layer in model.side_losses.items():
            if not layer.weights:
                continue
            written = model.spec["losses"][name]
            if not isinstance(layer, OptimalTransport):
                self._problems.append(f"loss '{name}' ({written['loss']}) has no counterpart")
                continue
            latent = self._connections.behind(self._connections.reference(written["latent"]))
            number = modules.get(latent.name) if latent else None
            if number is None:
                self._problems.append(f"loss '{name}': its latent tensor '{written['latent']}' is not from a module")
            elif number in taken:
                self._problems.append(f"losses '{taken[number]}' and '{name}' have latent tensors from one module")
            else:
                taken[number] = name
                tensors += convolution_tensors(layer, f"module{number}_ot_loss.", TRANSPORT_UNIT)
        return tensors

    def _lacks(self, place: Place, why: str = "") -> None:
        self._problems.append(f"{place} {why or 'has no counterpart'}")
