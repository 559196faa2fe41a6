"""The names and layouts that the code of variational-Bayes routing has for the weights of its layers.

There, the votes of a layer are a module of their own, `ConvCaps_1`, beside its routing, `ConvRouting_1`; and the
primary capsules have one convolution, of the channels of all poses, then of all activations.
"""

from __future__ import annotations

from encapkeras.interop.connections import LackingError
from encapkeras.interop.layer_names import LEAVES
from encapkeras.interop.original_tensor import JoinedTensor, OriginalTensor
from encapkeras.interop.window_names import refuse_unpublished
from encapkeras.layers import VariationalBayesCapsules

_NORMS = {"pose_norm": "BN_v", "activation_norm": "BN_a"}
_POSES, _ACTIVATIONS = ".poses.weight", ".activations.weight"


def bayes_tensors(layer: VariationalBayesCapsules, name: str) -> list[OriginalTensor]:
    """Return the weights of one layer; raise `LackingError` if the original has no such layer, or no name for it."""
    refuse_unpublished(layer, ("offset", "type"))
    if layer.pose != "matrix":
        raise LackingError(f"has other poses than matrices (pose: {layer.pose})")
    if "Caps" not in name:
        raise LackingError("has a routing whose name does not follow from the node's, which must contain 'Caps'")
    routing = name.replace("Caps", "Routing", 1)
    height, width, types, outputs, *matrix = layer.kernel.shape
    shapes = {
        "kernel": (1, types, outputs, 1, *matrix, 1, 1, height, width),
        **dict.fromkeys(("beta_a", "beta_u"), (1, 1, outputs, 1, 1, 1, 1, 1, 1)),
    }
    tensors = []
    for weight in layer.weights:
        part, _, leaf = weight.name.rpartition("_")
        if weight.name == "kernel":
            tensor = OriginalTensor.of(f"{name}.W_ij", weight, shape=shapes["kernel"], axes=(2, 3, 4, 5, 0, 1))
        elif part in _NORMS:
            tensor = OriginalTensor.of(f"{routing}.{_NORMS[part]}.{LEAVES[leaf]}", weight)
        else:
            tensor = OriginalTensor.of(f"{routing}.{weight.name}", weight, shape=shapes[weight.name])
        tensors.append(tensor)
    return tensors


def with_primary_capsules(tensors: list[OriginalTensor]) -> list[OriginalTensor]:
    """Return the tensors, with one in place of the kernels of poses and activations of a module."""
    named = {tensor.name: tensor for tensor in tensors}
    joined: list[OriginalTensor] = []
    for tensor in tensors:
        module, is_poses, _ = tensor.name.partition(_POSES)
        if is_poses and module + _ACTIVATIONS in named:
            joined.append(JoinedTensor.join(f"{module}.weight", tensor, named[module + _ACTIVATIONS]))
        elif not (tensor.name.endswith(_ACTIVATIONS) and tensor.name.removesuffix(_ACTIVATIONS) + _POSES in named):
            joined.append(tensor)
    return joined
