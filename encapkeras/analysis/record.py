"""From a trained network and images to the statistics of its routing layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from torch import Tensor

from encapkeras.analysis.couplings import DynamicRouting, EMRouting, Routing
from encapkeras.analysis.measurements import RoutingAnalysis
from encapkeras.analysis.routing_statistics import RoutingStatistics
from encapkeras.analysis.votes import CHUNK_ELEMENTS
from encapkeras.errors import ArgumentError
from encapkeras.keras_internals import inputs_of_calls
from encapkeras.layers import DynamicCapsules, EmCapsules

KINDS = "dynamic_capsules, em_capsules"

RoutingLayer = DynamicCapsules | EmCapsules


def routing_layers(model: keras.Model) -> list[RoutingLayer]:
    """The layers of a network that can be analysed, in its order.

    Args:
        model: A Functional model, such as `build_model` and `load_model` make.

    Raises:
        ArgumentError: It has none, has one that is called more than once, holds a model that has one, or is no
            Functional model of one input.
    """
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or []) != 1:
        raise ArgumentError(
            "the routing of a Functional Keras model with one input can be analysed, as build_model and load_model "
            f"make it; received {type(model).__name__}"
        )
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model) and _routes(layer)]
    if nested:
        raise ArgumentError(
            f"model '{nested[0].name}' inside '{model.name}' has routing layers, but models inside a model are not "
            "looked into; analyse it alone"
        )
    layers = [layer for layer in model.layers if isinstance(layer, RoutingLayer)]
    if not layers:
        raise ArgumentError(f"network '{model.name}' has no routing layer; layers that can be analysed: {KINDS}")
    for layer in layers:
        calls = len(inputs_of_calls(model, layer))
        if calls > 1:
            raise ArgumentError(
                f"layer '{layer.name}' is called {calls} times in network '{model.name}'; a routing layer can be "
                "analysed if it is called once"
            )
    return layers


def _routes(model: keras.Model) -> bool:
    return any(
        isinstance(layer, RoutingLayer) or (isinstance(layer, keras.Model) and _routes(layer)) for layer in model.layers
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
    """What the routing layers of a network do with images, iteration by iteration.

    The couplings' entropy, the agreement between votes and output capsules, the votes' lengths and the outputs'
    activations; `Measurement` lists them. Where the output capsules of a layer are the classes (as many, and no map),
    and labels are given, those of the image's class and the others are told apart. The network runs as in prediction,
    and no more than `chunk_elements` numbers of votes exist at once. Half precision is analysed in float32.

    Args:
        model: A network with `dynamic_capsules` or `em_capsules` layers, made by `build_model`, `load_model` or
            Keras' functional API.
        images: Images `(B, H, W, C)` as the network takes them, tensor or array.
        labels: Their classes `(B,)`, whole numbers from 0; None if not known.
        batch_size: How many images go through the network at once.
        chunk_elements: How many numbers of votes may exist at once; those of one input capsule always do.
        checkpoint: What the result calls the weights.
        split: What the result calls the images.

    Returns:
        The figures, one for each layer, iteration and statistic.

    Raises:
        ArgumentError: The network has no such layer or cannot be analysed, the images are not such as it takes, images
            and labels do not go together, or what reaches a layer is not finite.

    Example:
        >>> import keras, encapkeras
        >>> inputs = keras.Input((4, 4, 8, 6))
        >>> digits = encapkeras.layers.DynamicCapsules(capsules=10, dim=8, name="digits")(inputs)
        >>> model = keras.Model(inputs, encapkeras.layers.CapsuleLength()(digits))
        >>> analysis = analyse_routing(model, torch.rand(5, 4, 4, 8, 6), labels=[0, 1, 2, 3, 4])
        >>> [round(m.value, 3) for m in analysis.select("digits", "coupling_entropy_relative", "target")][:1]
        [1.0]
    """
    layers = routing_layers(model)
    if batch_size < 1 or chunk_elements < 1:
        raise ArgumentError(f"batch_size and chunk_elements are at least 1; received {batch_size}, {chunk_elements}")
    _check_images(model, images)
    targets = None if labels is None else _as_labels(labels, len(images))
    inner = keras.Model(model.inputs, {layer.name: inputs_of_calls(model, layer)[0] for layer in layers})
    classes = _classes(model)
    gathered = [RoutingStatistics(_routing_of(layer), chunk_elements) for layer in layers]
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            given = inner(keras.ops.convert_to_tensor(images[part]), training=False)
            for layer, statistics in zip(layers, gathered, strict=True):
                told = targets is not None and layer.map_types is None and layer.capsules in classes
                batch_labels = targets[part] if told and targets is not None else None
                try:
                    statistics.add(*_routing_inputs(layer, given[layer.name]), batch_labels)
                except ArgumentError as error:
                    raise ArgumentError(f"layer '{layer.name}': {error}") from error
    measurements = [m for layer, each in zip(layers, gathered, strict=True) for m in each.measurements(layer.name)]
    return RoutingAnalysis(checkpoint, split, len(images), tuple(measurements))


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


def _classes(model: keras.Model) -> set[int]:
    """How many classes the network may tell apart: the size of each of its outputs that is a list of scores."""
    return {output.shape[1] for output in model.outputs if len(output.shape) == 2}


def _routing_of(layer: RoutingLayer) -> Routing:
    def value(weight: keras.Variable) -> Tensor:
        return _wide(weight.value.detach())

    weight, bias = value(layer.kernel), None if layer.bias is None else value(layer.bias)
    if isinstance(layer, DynamicCapsules):
        return DynamicRouting(weight, bias, layer.iterations, layer.softmax_over)
    return EMRouting(
        weight,
        bias,
        value(layer.beta_v),
        value(layer.beta_a),
        layer.iterations,
        layer.normalize_distances,
        layer.density_floor,
    )


def _routing_inputs(layer: RoutingLayer, inputs: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Capsules `(B, P, N, D)` and activations `(B, P, N)`, as the layer itself gives them to its routing."""
    capsules, *activations = inputs
    by_position = [layer.by_position(_wide(tensor).unsqueeze(-1)).squeeze(-1) for tensor in activations]
    return layer.by_position(_wide(capsules)), by_position[0] if by_position else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
