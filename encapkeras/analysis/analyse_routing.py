"""Measure the routing layers of a trained network with images."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import keras
import numpy as np
import torch
from torch import Tensor

from encapkeras.analysis.measurements import Measurement, RoutingAnalysis
from encapkeras.analysis.routing_statistics import RoutingStatistics
from encapkeras.analysis.stack_statistics import StackStatistics
from encapkeras.analysis.vote_chunks import CHUNK_ELEMENTS
from encapkeras.analysis.window_statistics import WindowStatistics
from encapkeras.errors import ArgumentError
from encapkeras.keras_internals import inputs_of_calls, mask_of
from encapkeras.layers import (
    LAYERS,
    ConvolutionDynamicCapsules,
    Heinsen2019Capsules,
    Heinsen2022Capsules,
    InvertedAttentionStack,
)
from encapkeras.layers.voting_layer import VotingLayer
from encapkeras.layers.window_layer import WindowLayer, WindowRecord

RoutingLayer = (
    VotingLayer
    | WindowLayer
    | ConvolutionDynamicCapsules
    | Heinsen2019Capsules
    | Heinsen2022Capsules
    | InvertedAttentionStack
)
ROUTING_LAYERS = get_args(RoutingLayer)
Statistics = RoutingStatistics | WindowStatistics | StackStatistics


def routing_layers(model: keras.Model) -> list[RoutingLayer]:
    """Return the layers of a network that can be analysed, in its order.

    Args:
        model: A Functional model, such as `build_model` and `load_model` make.

    Raises:
        ArgumentError: It has none, has one that is called more than once, contains a model that has one, or is not a
            Functional model of one input.
    """
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or []) != 1:
        raise ArgumentError(
            "the routing of a Functional Keras model with one input can be analysed, as build_model and load_model "
            f"make it; received {type(model).__name__}"
        )
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model) and _has_routing(layer)]
    if nested:
        raise ArgumentError(
            f"model '{nested[0].name}' inside '{model.name}' has routing layers, but models inside a model are not "
            "looked into; analyse it alone"
        )
    layers = [layer for layer in model.layers if isinstance(layer, ROUTING_LAYERS)]
    if not layers:
        targets = {name: LAYERS[name].target for name in LAYERS}
        routing = [name for name, cls in targets.items() if isinstance(cls, type) and issubclass(cls, ROUTING_LAYERS)]
        known = ", ".join(sorted(routing))
        raise ArgumentError(f"network '{model.name}' has no routing layer; layers that can be analysed: {known}")
    for layer in layers:
        if type(layer).routing_record in (VotingLayer.routing_record, WindowLayer.routing_record):
            raise ArgumentError(
                f"layer '{layer.name}' (class {type(layer).__name__}) cannot be analysed: it has no method "
                "routing_record"
            )
        if layer.routing is not None:
            raise ArgumentError(
                f"layer '{layer.name}' has nothing to analyse: its coefficients are fixed (routing: {layer.routing})"
            )
        _check_call(model, layer)
    return layers


def _check_call(model: keras.Model, layer: RoutingLayer) -> None:
    calls = inputs_of_calls(model, layer)
    if len(calls) > 1:
        raise ArgumentError(
            f"layer '{layer.name}' is called {len(calls)} times in network '{model.name}'; a routing layer can be "
            "analysed if it is called once"
        )
    if isinstance(layer, Heinsen2022Capsules) and any(len(each.shape) == 3 for each in calls[0][1:]):
        raise ArgumentError(
            f"layer '{layer.name}' cannot be analysed: its mask is one of pairs of inputs and outputs; one of inputs "
            "can be analysed"
        )


def _has_routing(model: keras.Model) -> bool:
    return any(
        isinstance(layer, ROUTING_LAYERS) or (isinstance(layer, keras.Model) and _has_routing(layer))
        for layer in model.layers
    )


def analyse_routing(
    model: keras.Model,
    images: Any,
    labels: Any = None,
    *,
    batch_size: int = 32,
    chunk_elements: int = CHUNK_ELEMENTS,
    checkpoint: str = "model",
    split: str = "images",
) -> RoutingAnalysis:
    """Measure what the routing layers of a network do with images, iteration by iteration.

    The couplings' entropy, the agreement between votes and output capsules, the votes' lengths and the outputs'
    activations; `Measurement` lists them. Where a layer's output capsules are the classes (as many, and no map) and
    labels are given, the image's class is measured apart from the others. The network runs as in prediction; half
    precision is analysed in float32.

    Args:
        model: A network with routing layers, made by `build_model`, `load_model` or Keras' functional API.
        images: Images `(B, H, W, C)` as the network takes them, tensor or array.
        labels: Their classes `(B,)`, whole numbers from 0; None if not known.
        batch_size: How many images go through the network at once.
        chunk_elements: How many numbers of votes may exist at once; those of one input capsule always do.
        checkpoint: Name of the weights in the result.
        split: Name of the images in the result.

    Returns:
        The measurements, one for each layer, iteration and statistic.

    Raises:
        ArgumentError: The network has no routing layer or cannot be analysed, it does not take such images, labels and
            images do not match, or the input of a layer is not finite.

    Examples:
        >>> import keras, encapkeras
        >>> inputs = keras.Input((4, 4, 8, 6))
        >>> digits = encapkeras.layers.DynamicCapsules(capsules=10, dim=8, name="digits")(inputs)
        >>> model = keras.Model(inputs, encapkeras.layers.CapsuleLength()(digits))
        >>> analysis = analyse_routing(model, torch.rand(5, 4, 4, 8, 6), labels=[0, 1, 2, 3, 4])
        >>> [round(m.value, 3) for m in analysis.select("digits", "coupling_entropy_relative", "target")][:1]
        [1.0]
    """
    if batch_size < 1 or chunk_elements < 1:
        raise ArgumentError(f"batch_size and chunk_elements are at least 1; received {batch_size}, {chunk_elements}")
    layers, targets = check_analysis(model, images, labels)
    measurements = _measure(model, layers, images, targets, batch_size, chunk_elements)
    return RoutingAnalysis(checkpoint, split, len(images), tuple(measurements))


def check_analysis(model: keras.Model, images: Any, labels: Any) -> tuple[list[RoutingLayer], Tensor | None]:
    """Return the layers to analyse and the labels, or refuse what `analyse_routing` would."""
    layers = routing_layers(model)
    _check_images(model, images)
    return layers, None if labels is None else _as_labels(labels, len(images))


def _measure(
    model: keras.Model,
    layers: list[RoutingLayer],
    images: Any,
    targets: Tensor | None,
    batch_size: int,
    chunk_elements: int,
) -> list[Measurement]:
    inner = keras.Model(model.inputs, {layer.name: inputs_of_calls(model, layer)[0] for layer in layers})
    classes = _possible_classes(model)
    gathered = [_statistics(layer, chunk_elements) for layer in layers]
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            inputs = inner(keras.ops.convert_to_tensor(images[part]), training=False)
            for layer, statistics in zip(layers, gathered, strict=True):
                of_heinsen = isinstance(layer, Heinsen2019Capsules | Heinsen2022Capsules)
                if not of_heinsen and any(mask_of(each) is not None for each in inputs[layer.name]):
                    raise ArgumentError(
                        f"layer '{layer.name}' takes a sequence with a mask, and padded steps would count as capsules; "
                        "routing of sequences can be analysed without a mask only"
                    )
                labels = targets[part] if targets is not None and _number_in_list(layer) in classes else None
                try:
                    statistics.add(*maps_of(layer, [widen(each) for each in inputs[layer.name]]), labels)
                except ArgumentError as error:
                    raise ArgumentError(f"layer '{layer.name}': {error}") from error
    return [m for layer, each in zip(layers, gathered, strict=True) for m in each.measurements(layer.name)]


def _check_images(model: keras.Model, images: Any) -> None:
    wanted, shape = model.inputs[0].shape[1:], tuple(np.shape(images))
    if len(shape) != len(wanted) + 1 or any(w not in (None, s) for w, s in zip(wanted, shape[1:], strict=True)):
        expected = ", ".join(["B", *map(str, wanted)])
        raise ArgumentError(
            f"images must have the shape ({expected}) that network '{model.name}' takes; received {shape}"
        )
    if shape[0] == 0:
        raise ArgumentError("there are no images to analyse the routing with; give at least one")


def _as_labels(labels: Any, images: int) -> Tensor:
    whole = torch.as_tensor(np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels))
    if whole.dim() != 1 or whole.is_floating_point() or whole.is_complex() or len(whole) != images:
        raise ArgumentError(
            f"labels must be one whole number for each of the {images} images; received {whole.dtype} of shape "
            f"{tuple(whole.shape)}"
        )
    return whole.long()


def _possible_classes(model: keras.Model) -> set[int]:
    """Return the numbers of classes the network may have: the size of each output that is a list of scores."""
    return {output.shape[1] for output in model.outputs if len(output.shape) == 2}


def _number_in_list(layer: RoutingLayer) -> int | None:
    """Return how many parents there are, if they are a list, as classes are, rather than a map, and of fixed number."""
    if isinstance(layer, ConvolutionDynamicCapsules):
        return None
    last = layer.stacked[-1] if isinstance(layer, InvertedAttentionStack) else layer
    if isinstance(last, VotingLayer):
        return last.capsules if last.map_types is None else None
    return None if isinstance(last, WindowLayer) and last.kernel_size is not None else last.capsules


def maps_of(layer: RoutingLayer, inputs: list[Tensor]) -> tuple[Tensor, Any]:
    """Return the capsules and their activations as the layer's statistics take them."""
    if isinstance(layer, VotingLayer):
        return layer.by_position(*inputs)
    if isinstance(layer, ConvolutionDynamicCapsules):
        return inputs[0], None
    maps = layer.stacked[0].as_maps(inputs) if isinstance(layer, InvertedAttentionStack) else layer.as_maps(inputs)
    return maps[0], maps[1] if len(maps) > 1 else None


def _statistics(layer: RoutingLayer, chunk_elements: int) -> Statistics:
    """Return the statistics of a layer with weights in float32 or better."""
    if isinstance(layer, VotingLayer):
        return RoutingStatistics(widened(layer.routing_record()), chunk_elements)
    if isinstance(layer, InvertedAttentionStack):
        records = [wide_record(record) for record in layer.routing_record()]
        return StackStatistics(records, layer.concurrent, chunk_elements)
    return WindowStatistics(wide_record(layer.routing_record()), chunk_elements)


def wide_record(record: WindowRecord) -> WindowRecord:
    """Return a record with weights in float32 or better."""
    weights = [None if weight is None else widened(weight) for weight in record.weights]
    return dataclasses.replace(record, weights=weights)


def widened(value: Any) -> Any:
    """Return a tensor, or a tuple or a dataclass with tensors, in float32 or better."""
    if isinstance(value, Tensor | tuple):
        return keras.tree.map_structure(widen, value)
    tensors: dict[str, Any] = {name: widen(part) for name, part in vars(value).items() if isinstance(part, Tensor)}
    return dataclasses.replace(value, **tensors)


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
