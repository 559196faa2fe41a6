"""Names of tensors from those of nodes: for networks whose nodes are called as the modules of a torch code.

A node has the name of its module, dots included: `layer1.0.conv2`, `fc`. A conv_bn_relu has that of its convolution;
its batch norm is the next entry of the list (`layers.3`, then `layers.4`), or has `bn` for `conv` (`conv1`, `bn1`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import keras

from encapkeras.interop.attention_names import attention_tensors, stack_tensors
from encapkeras.interop.bayes_names import bayes_tensors, with_primary_capsules
from encapkeras.interop.connections import (
    REARRANGING,
    Connections,
    LackingError,
    Place,
    is_map,
    no_counterpart,
    rearranging,
)
from encapkeras.interop.layer_names import convolution_tensors, keras_tensors, other_weights
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.interop.window_names import window_tensors
from encapkeras.layers import (
    BatchNorm,
    ConvBnRelu,
    InvertedAttentionCapsules,
    InvertedAttentionStack,
    VariationalBayesCapsules,
    WindowLayer,
)

HAVE_COUNTERPARTS = (
    "Nodes with the names of the original's modules have counterparts if they are keras.Conv2D, keras.Dense, "
    "keras.BatchNormalization, keras.LayerNormalization, batch_norm, conv_bn_relu, or self-routing, dynamic or EM "
    "routing in windows, inverted attention or variational Bayes. Layers without weights may stand anywhere."
)


def module_tensors(connections: Connections) -> list[OriginalTensor]:
    """Return all tensors by the names of their nodes; an error names all parts that have none."""
    tensors, problems = _converted(connections)
    counts = Counter(tensor.name for tensor in tensors)
    problems += [f"'{name}' would be the name of {count} tensors" for name, count in counts.items() if count > 1]
    side_losses = connections.model.side_losses.items()
    problems += [f"loss '{name}' has no counterpart" for name, loss in side_losses if loss.weights]
    if problems or not tensors:
        raise no_counterpart(connections.model, problems or ["it has no weights"], HAVE_COUNTERPARTS)
    return tensors


def routes_in_windows(connections: Connections) -> bool:
    """Return whether a network has a routing that only codes with names of their own have."""
    return any(isinstance(place.layer, WindowLayer | InvertedAttentionStack) for place in connections.places.values())


def _converted(connections: Connections) -> tuple[list[OriginalTensor], list[str]]:
    """Return the tensors of all places, and what is wrong with places that have none."""
    tensors: list[OriginalTensor] = []
    problems: list[str] = []
    for place in connections.with_weights().values():
        try:
            tensors += _converter(place)(place, connections)
        except LackingError as lacking:
            problems.append(f"{place} {lacking}")
    if any(isinstance(place.layer, VariationalBayesCapsules) for place in connections.places.values()):
        tensors = with_primary_capsules(tensors)
    return tensors, problems


Converter = Callable[[Place, Connections], list[OriginalTensor]]


def _converter(place: Place) -> Converter:
    for kind, convert in _CONVERTERS.items():
        if isinstance(place.layer, kind):
            return convert
    raise LackingError("has no counterpart")


def _of_windows(place: Place, _: Connections) -> list[OriginalTensor]:
    return window_tensors(place)


def _of_attention(place: Place, _: Connections) -> list[OriginalTensor]:
    return attention_tensors(place.layer, place.name)


def _of_stack(place: Place, _: Connections) -> list[OriginalTensor]:
    return stack_tensors(place.layer, place.name)


def _of_bayes(place: Place, _: Connections) -> list[OriginalTensor]:
    return bayes_tensors(place.layer, place.name)


def _of_convolution(place: Place, _: Connections) -> list[OriginalTensor]:
    return convolution_tensors(place.layer, "", {"convolution": place.name, "norm": _norm_beside(place.name)})


def _norm_beside(convolution: str) -> str:
    module, dot, last = convolution.rpartition(".")
    if last.isdigit():
        return f"{module}{dot}{int(last) + 1}"
    norm = re.sub("conv", "bn", last, count=1) if "conv" in last else re.sub("Conv", "BN", last, count=1)
    if norm == last:
        raise LackingError(
            "has a batch norm whose name does not follow from the node's: the last part of that must be a number, as "
            "in layers.3, or contain 'conv', as in layer1.0.conv1"
        )
    return f"{module}{dot}{norm}"


def _of_norm(place: Place, _: Connections) -> list[OriginalTensor]:
    return convolution_tensors(place.layer, "", {"norm": place.name})


def _of_keras(place: Place, _: Connections) -> list[OriginalTensor]:
    if others := other_weights(place.layer):
        raise LackingError(others)
    return keras_tensors(place.layer, f"{place.name}.")


def _of_dense(place: Place, connections: Connections) -> list[OriginalTensor]:
    kernel, *others = _of_keras(place, connections)
    if (size := _flattened(place, connections)) is None:
        return [kernel, *others]
    # torch flattens a map channel by channel
    view = (*size, kernel.variable.shape[1])
    of_map = OriginalTensor.of(kernel.name, kernel.variable, shape=kernel.shape, axes=(3, 2, 0, 1), view=view)
    return [of_map, *others]


def _flattened(place: Place, connections: Connections) -> tuple[int, ...] | None:
    """Return height, width and channels of the map, if any, that was flattened for a dense layer."""
    size = None
    before = connections.places.get(place.node.inputs[0].node)
    while before is not None and not before.layer.weights and len(before.node.inputs) == 1:
        shape = keras.tree.flatten(before.layer.input)[0].shape  # behind it there may be a mask
        if isinstance(before.layer, keras.layers.Flatten) and len(shape) == 4:
            size = tuple(shape[1:])
        elif isinstance(before.layer, REARRANGING) and is_map(shape):
            raise LackingError(f"follows {rearranging(before)}")
        before = connections.places.get(before.node.inputs[0].node)
    return size


_CONVERTERS: dict[type[keras.layers.Layer], Converter] = {
    InvertedAttentionStack: _of_stack,
    InvertedAttentionCapsules: _of_attention,
    VariationalBayesCapsules: _of_bayes,
    WindowLayer: _of_windows,
    ConvBnRelu: _of_convolution,
    BatchNorm: _of_norm,
    keras.layers.Dense: _of_dense,
    keras.layers.Conv2D: _of_keras,
    keras.layers.BatchNormalization: _of_keras,
    keras.layers.LayerNormalization: _of_keras,
}
