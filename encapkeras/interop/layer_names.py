"""The original's names and layouts of the weights in one layer.

A convolution with batch norm and ReLU is a sequence of the three, 0 to 2. A step of a capsule block is four entries of
the list `block`: the convolution, the batch norm, ReLU and squash, the last two without weights; without ReLU it is
three. Within an approximate convolution, `main_cap` is the master branch and `res_cap` the aide, each a sequence of
convolution, batch norm, ReLU and squash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import keras

from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.layers import CapsuleConvolution, CapsuleDense, CapsuleStage
from encapkeras.layers.voting_layer import VotingLayer

COUNTER = "num_batches_tracked"
"""Of the batches that a batch norm of torch has recorded."""
CONVOLUTION_AND_NORM = {"convolution": "0", "norm": "1"}
TRANSPORT_UNIT = {
    "generator": "G_net.0",
    "generator_norm": "G_net.1",
    "critic_1": "critic.0",
    "critic_1_norm": "critic.1",
    "critic_2": "critic.3",
    "critic_2_norm": "critic.4",
}
_KERAS = {
    **{"kernel": "weight", "bias": "bias"},
    **{"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
}
LEAVES = {
    **{"kernel": "weight", "bias": "bias"},
    **{"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"},
    "count": COUNTER,
}
"""The original's last part of a name, by ours."""
_BRANCHES = {
    "master_norm": "main_cap.1",
    "aide": "res_cap.0",
    "aide_norm": "res_cap.1",
    "master_coefficient": "main_cap_coeff",
    "aide_coefficient": "res_cap_coeff",
}
Parts = Callable[[str], str]


def convolution_tensors(layer: keras.layers.Layer, prefix: str, parts: Mapping[str, str]) -> list[OriginalTensor]:
    """Return the weights `<part>_kernel`, `<part>_scale`, ... of a layer; `parts` has the original's names of parts."""
    return _renamed(layer, prefix, parts.__getitem__)


def block_tensors(layer: CapsuleStage | CapsuleConvolution, prefix: str) -> list[OriginalTensor]:
    """Return the weights of the one block of a capsule convolution, or of both of a stage."""
    return _renamed(layer, prefix, lambda part: _part_of_block(layer, part))


def dense_capsule_tensors(layer: CapsuleDense, prefix: str) -> list[OriginalTensor]:
    """Return the weights of fully connected capsules."""
    if layer.kind == "per_dim":
        return [OriginalTensor.of(f"{prefix}weight", layer.kernel)]
    if layer.kind == "dense":
        kernel = OriginalTensor.of(f"{prefix}fc_layer.weight", layer.kernel)
        return [kernel, OriginalTensor.of(f"{prefix}fc_layer.bias", layer.bias)]
    input_dim, dim, capsules = layer.component_kernel.shape
    return [
        OriginalTensor.of(f"{prefix}W1", layer.component_kernel, shape=(input_dim, dim * capsules)),
        OriginalTensor.of(f"{prefix}W2", layer.capsule_kernel, shape=(*layer.capsule_kernel.shape, 1)),
    ]


def routing_tensors(layer: VotingLayer, prefix: str) -> list[OriginalTensor]:
    """Return the weights of a routing layer: its votes are a 1x1 convolution with a group for each type."""
    tensors = []
    for variable in layer.weights:
        if variable.name == "kernel":
            *outputs, input_dim = variable.shape
            shape = (math.prod(outputs), input_dim, 1, 1)
            tensors.append(OriginalTensor.of(f"{prefix}W.weight", variable, shape=shape))
        elif variable.name == "bias":
            tensors.append(OriginalTensor.of(f"{prefix}W.bias", variable, shape=(math.prod(variable.shape),)))
        else:
            tensors.append(OriginalTensor.of(f"{prefix}{variable.name}", variable))
    return tensors


def keras_tensors(layer: keras.layers.Layer, prefix: str) -> list[OriginalTensor]:
    """Return the weights of Keras' own Conv2D, Dense and BatchNormalization, with kernels' axes in torch's order."""
    tensors = []
    for variable in layer.weights:
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(variable.shape))
        tensors.append(OriginalTensor.of(f"{prefix}{_KERAS[variable.name]}", variable, axes=axes))
    return tensors


def other_weights(layer: keras.layers.Layer) -> str:
    """Name weights of a Keras layer that torch does not have, such as LoRA's; empty if there are none."""
    others = [variable.name for variable in layer.weights if variable.name not in _KERAS]
    return f"has weights without a counterpart: {', '.join(others)}" if others else ""


def _renamed(layer: keras.layers.Layer, prefix: str, original_part: Parts) -> list[OriginalTensor]:
    tensors = []
    for variable in layer.weights:
        part, leaf = variable.name.rsplit("_", 1)
        tensors.append(OriginalTensor.of(f"{prefix}{original_part(part)}.{LEAVES[leaf]}", variable))
    return tensors


def _part_of_block(layer: CapsuleStage | CapsuleConvolution, part: str) -> str:
    """Return the original's name of a part: `main_1_aide_norm` is `main_conv.block.0.res_cap.1`."""
    block, part = part.split("_", 1)
    prefix = "" if block == "step" else f"{block}_conv."
    if part == "projection":
        return f"{prefix}conv_adjust_blob_shape"
    number, part = part.split("_", 1)
    first = (int(number) - 1) * (4 if layer.relu else 3)
    if part == "norm":
        return f"{prefix}block.{first + 1}"
    if part in _BRANCHES:
        return f"{prefix}block.{first}.{_BRANCHES[part]}"
    size = re.fullmatch(r"master_(\d+)", part)
    position = layer.kernel_sizes.index(int(size[1])) if size else 0
    branch = "main_cap.0." if layer.kind == "approximate" else ""
    return f"{prefix}block.{first}.{branch}conv.{position}"
