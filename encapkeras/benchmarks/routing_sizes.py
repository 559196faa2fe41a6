"""The methods of `encapkeras bench routing` and `peers`, and their sizes; needs no torch, so that `--help` is quick.

Methods in windows have the sizes of a first routing layer that was published with them.
"""

from __future__ import annotations

from collections import defaultdict

Sizes = dict[str, int]

MEANINGS = {
    "batch_size": "samples in a batch",
    "types": "types N of input capsules",
    "positions": "positions P of each type",
    "map_size": "rows and columns of the map of input capsules",
    "dim": "dimension D of input capsules",
    "outputs": "types J of output capsules",
    "out_dim": "dimension E of output capsules",
    "pose_size": "rows and columns of a capsule's matrix",
    "kernel_size": "rows and columns of a window",
    "strides": "step of the windows",
    "padding": "rows and columns of nothing around the map",
    "iterations": "iterations T",
    "shared": "1: one matrix per type for a whole window, 0: one for each of its offsets",
}
LEAST = dict.fromkeys(MEANINGS, 1) | {"padding": 0, "shared": 0}
CHOICES = {"shared": (0, 1)}

_WITHOUT_WINDOWS = {
    "batch_size": 8, "types": 32, "positions": 64, "dim": 8, "outputs": 512, "out_dim": 16, "iterations": 3
}  # fmt: skip
# Hahn et al. 2019: ResNet-20 with one hidden layer of capsules.
_SELF_ROUTING = {
    "batch_size": 32, "types": 32, "map_size": 8, "dim": 16, "outputs": 32, "out_dim": 16,
    "kernel_size": 3, "strides": 2, "padding": 1, "shared": 0,
}  # fmt: skip
_OF_MATRICES = {
    "batch_size": 32, "types": 32, "map_size": 8, "outputs": 32, "pose_size": 4,
    "kernel_size": 3, "strides": 2, "padding": 1, "iterations": 3, "shared": 0,
}  # fmt: skip

# The capsules of Sabour et al. 2017, 1,152 of them; Efficient-CapsNet itself has only 16.
_SELF_ATTENTION = {
    "batch_size": 32, "types": 32, "map_size": 6, "dim": 8, "outputs": 10, "out_dim": 16,
    "kernel_size": 6, "strides": 1, "padding": 0, "shared": 0,
}  # fmt: skip
# Rajasegaran et al. 2019, for CIFAR-10: routing by a convolution, and class capsules with matrices of their own.
_CONVOLUTION = {
    "batch_size": 32, "types": 32, "map_size": 4, "dim": 8, "outputs": 32, "out_dim": 8, "kernel_size": 3,
    "strides": 1, "iterations": 3,
}  # fmt: skip
_CLASSES = {
    "batch_size": 32, "types": 2560, "positions": 1, "dim": 8, "outputs": 10, "out_dim": 32, "iterations": 3
}  # fmt: skip

METHODS: dict[str, Sizes] = {
    "dynamic": _WITHOUT_WINDOWS,
    "em": _WITHOUT_WINDOWS,
    "self-routing": _SELF_ROUTING,
    "self-attention": _SELF_ATTENTION,
    # Tsai et al. 2020: the first layer of capsules for CIFAR-10.
    "inverted-attention": _OF_MATRICES | {"map_size": 16, "padding": 0, "iterations": 2},
    # De Sousa Ribeiro et al. 2020: ConvCaps_1 of their code's default network.
    "variational-bayes": _OF_MATRICES | {"types": 8, "map_size": 14, "outputs": 16, "padding": 0},
    # Both as controls of self-routing, on the same network.
    "dynamic-windows": _SELF_ROUTING | {"iterations": 3},
    "dynamic-windows-child": _SELF_ROUTING | {"iterations": 3},
    "em-windows": _OF_MATRICES,
    "em-windows-position": _OF_MATRICES,
    "dynamic-convolution": _CONVOLUTION,
    "dynamic-classes": _CLASSES,
    # Byerly et al. 2020: the first branch of the network for MNIST.
    "homogeneous-vectors": {"batch_size": 120, "positions": 484, "dim": 64, "outputs": 10},
}
"""Of a name that ends in `child`, or `position`: all parents that a child feeds compete for it, or those of a position.
Without such an ending, as is the default of the function."""

DEFAULT = ("dynamic", "em")

PEERS: dict[str, tuple[int, ...]] = {"capsnet": (64, 128), "em": (32,)}
"""The methods of `encapkeras bench peers`, each with the batch sizes that are measured if none are given."""


def defaults(name: str) -> str:
    """Return the default values of a size, the most frequent one first, others with their methods."""
    methods = defaultdict(list)
    for method, sizes in METHODS.items():
        if name in sizes:
            methods[sizes[name]].append(method)
    first, *others = sorted(methods, key=lambda value: -len(methods[value]))
    return "; ".join([str(first), *(f"{value}: {', '.join(methods[value])}" for value in others)])
