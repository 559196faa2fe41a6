"""The way of the flow of agreement through a network: from its classes back to maps of capsules.

Shape suffixes: X a batch whose samples are pairs of an image and a class, B batch, K classes, H W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from encapkeras.analysis.agreement_flow import flow_of_stack, flow_of_votes, flow_of_windows
from encapkeras.analysis.analyse_routing import ROUTING_LAYERS, maps_of, routing_layers, wide_record, widen, widened
from encapkeras.errors import ArgumentError
from encapkeras.keras_internals import inputs_of_calls, producer
from encapkeras.layers import (
    BatchNorm,
    CapsuleLength,
    CapsulesToImage,
    ConvolutionDynamicCapsules,
    ImageToCapsules,
    InvertedAttentionStack,
    Normalize,
    Squash,
)
from encapkeras.layers.voting_layer import VotingLayer
from encapkeras.layers.window_layer import WindowLayer

_BY_CAPSULE = (
    BatchNorm,
    CapsuleLength,
    Normalize,
    Squash,
    keras.layers.Activation,
    keras.layers.ActivityRegularization,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Softmax,
)
"""Layers that act on each capsule, or each position of an image, by itself."""
_MOVES = (
    CapsulesToImage,
    ImageToCapsules,
    keras.layers.Concatenate,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Reshape,
)
"""Layers that give the same numbers in another order."""


class FlowPath:
    """The layers that the flow of agreement goes through, and the maps where it ends.

    It goes back through every routing layer, through layers that act on each capsule by itself, and through those that
    only lay out numbers in another way. It ends where capsules are mixed otherwise, as by convolutions and sums.

    Args:
        model: A Functional model with one input `(B, H, W, C)` and one output `(B, K)`.

    Raises:
        ArgumentError: It has no routing that can be followed from the classes to a map of more than one position.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        if not any(isinstance(layer, ROUTING_LAYERS) for layer in model.layers):
            raise ArgumentError(f"network '{model.name}' has no routing layer")
        routing_layers(model)  # refuses networks whose routing cannot be looked into
        self._order: list[keras.KerasTensor] = []
        self._visit(model.outputs[0], set())
        self._order.reverse()
        self.ends = [tensor for tensor in self._order if not _followed(tensor)]
        made_by = [producer(tensor)[0] for tensor in self._order if _followed(tensor)]
        taken = {layer.name: inputs_of_calls(model, layer)[0] for layer in made_by if isinstance(layer, ROUTING_LAYERS)}
        self.layers = tuple(taken)
        self._check()
        self._inner = keras.Model(model.inputs, taken)

    def _visit(self, tensor: keras.KerasTensor, seen: set[int]) -> None:
        if id(tensor) in seen:
            return
        seen.add(id(tensor))
        for below in _followed(tensor):
            self._visit(below, seen)
        self._order.append(tensor)

    def _check(self) -> None:
        where = ", ".join(f"'{producer(tensor)[0].name}' {tuple(tensor.shape[1:])}" for tensor in self.ends)
        if not self.layers:
            raise ArgumentError(f"the classes of '{self._model.name}' do not come from routing, but from {where}")
        if any(len(tensor.shape) not in (4, 5) for tensor in self.ends):
            raise ArgumentError(f"the routing of '{self._model.name}' leads to {where}, which has no rows and columns")
        if all(tuple(tensor.shape[1:3]) == (1, 1) for tensor in self.ends):
            raise ArgumentError(f"the routing of '{self._model.name}' leads to {where}, a single position")

    @torch.no_grad()
    def flows(self, images: Tensor, labels_BK: Tensor) -> list[Tensor]:
        """Return the flow of each class at the positions of each of the `ends`, `(B, K, H, W)`; together it sums to 1.

        Args:
            images: `(B, H, W, C)`, as the network takes them.
            labels_BK: The classes whose flow is wanted, for each image.
        """
        images = keras.ops.convert_to_tensor(images)
        inputs = self._inner(images, training=False)
        batch, classes = labels_BK.shape
        outputs = self._model.outputs[0]
        start = torch.nn.functional.one_hot(labels_BK.to(images.device), outputs.shape[1]).flatten(0, 1)
        found = {id(outputs): start.to(widen(images).dtype)}
        for tensor in self._order:
            flows = self._back(tensor, found[id(tensor)], inputs, batch)
            for below, flow in zip(_followed(tensor), flows, strict=True):
                found[id(below)] = found.get(id(below), 0) + flow
        return [_by_position(found[id(tensor)]).unflatten(0, (batch, classes)) for tensor in self.ends]

    def _back(
        self, tensor: keras.KerasTensor, flow: Tensor, inputs: dict[str, list[Tensor]], batch: int
    ) -> list[Tensor]:
        """Return the flow at the tensors below, in their shapes: that of a capsule is spread over its components."""
        below = _followed(tensor)
        if not below:
            return []
        layer, _ = producer(tensor)
        if isinstance(layer, ROUTING_LAYERS):
            flow_BKQJ = _by_parent(layer, flow).unflatten(0, (batch, -1))
            return [_through(layer, [widen(each) for each in inputs[layer.name]], flow_BKQJ)]
        shapes = [(len(flow), *each.shape[1:]) for each in below]
        if isinstance(layer, _MOVES):
            return _moved(lambda parts: layer(parts if len(parts) > 1 else parts[0]), shapes, flow)
        (shape,) = shapes
        if flow.shape == shape:
            return [flow]
        of_capsule = flow.sum(-1) if flow.dim() == len(shape) else flow
        return [(of_capsule / shape[-1]).unsqueeze(-1).expand(shape)]


def _followed(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return the tensors below through which the flow of a tensor goes on: of routing layers the capsules alone."""
    layer, inputs = producer(tensor)
    if isinstance(layer, ROUTING_LAYERS) and not isinstance(layer, ConvolutionDynamicCapsules):
        return list(inputs[:1])
    last_axis = isinstance(layer, keras.layers.Dense) and len(tensor.shape) > 2  # one matrix for all capsules
    if isinstance(layer, keras.layers.LayerNormalization) and layer.axis not in (-1, [-1], len(tensor.shape) - 1):
        return []
    return list(inputs) if last_axis or isinstance(layer, (*_BY_CAPSULE, *_MOVES)) else []


def _by_parent(layer: Any, flow: Tensor) -> Tensor:
    """Return the flow at the parents of a layer, `(X, Q, J)`, from that at its outputs or their activations."""
    sequence = isinstance(layer, WindowLayer) and layer.flat and layer.kernel_size is not None
    if flow.dim() % 2 == (0 if sequence else 1):
        flow = flow.sum(-1)
    if isinstance(layer, VotingLayer) and layer.map_types is not None:
        flow = flow.movedim(3, 1).flatten(1)  # as the parents are numbered
        return flow.unsqueeze(1)
    return flow.flatten(1, -2) if flow.dim() > 2 else flow.unsqueeze(1)


def _through(layer: Any, inputs: list[Tensor], flow_BKQJ: Tensor) -> Tensor:
    """Return the flow at the capsules that a routing layer takes, in their shape but for the batch."""
    capsules, activations = maps_of(layer, inputs)
    flow_BKQJ = flow_BKQJ.to(capsules.dtype)
    if isinstance(layer, VotingLayer):
        flow = flow_of_votes(widened(layer.routing_record()), capsules, activations, flow_BKQJ[:, :, 0])
    elif isinstance(layer, InvertedAttentionStack):
        records = [wide_record(record) for record in layer.routing_record()]
        flow = flow_of_stack(records, layer.concurrent, capsules, flow_BKQJ)
    else:
        with_activations = [capsules] if activations is None else [capsules, activations]
        flow = flow_of_windows(wide_record(layer.routing_record()), with_activations, flow_BKQJ)
    dim = capsules.shape[-1]
    spread = (flow.flatten(0, 1) / dim).unsqueeze(-1).expand(*[-1] * (flow.dim() - 1), dim)
    like = [each[:1].expand(len(spread), *each.shape[1:]) for each in inputs]
    (moved,) = _moved(lambda parts: maps_of(layer, [*parts, *like[1:]])[0], [like[0].shape], spread)
    return moved


def _moved(move: Callable[[list[Tensor]], Tensor], shapes: Sequence[Sequence[int]], flow: Tensor) -> list[Tensor]:
    """Return the flow before numbers were moved: the gradient of a move is the move back."""
    with torch.enable_grad():
        parts = [
            torch.zeros(tuple(shape), dtype=flow.dtype, device=flow.device, requires_grad=True) for shape in shapes
        ]
        return list(torch.autograd.grad(move(parts), parts, flow))


def _by_position(flow: Tensor) -> Tensor:
    """Return `(X, H, W)` of `(X, H, W, N, D)` or `(X, H, W, C)`."""
    return flow.flatten(3).sum(3)
