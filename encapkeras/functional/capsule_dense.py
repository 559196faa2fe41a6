"""Fully connected capsules ("CapFC") and their lengths.

Shape suffixes: B batch, H height, W width, N capsule types, D capsule dimension, I = N * H * W input capsules,
J output capsules, E output capsule dimension.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import as_floats, widen


def list_capsules(capsules_BHWND: torch.Tensor) -> torch.Tensor:
    """Return the capsules of a map as a list `(B, I, D)`, type by type, then row by row: `i = (n, h, w)`.

    Args:
        capsules_BHWND: Capsules `(B, H, W, N, D)`.

    Examples:
        >>> list_capsules(torch.zeros(2, 4, 4, 8, 16)).shape
        torch.Size([2, 128, 16])
    """
    return capsules_BHWND.permute(0, 3, 1, 2, 4).flatten(1, 3)


def capsule_dense_per_dim(capsules_BID: torch.Tensor, weight_DIJ: torch.Tensor) -> torch.Tensor:
    """Return `out[j, d] = sum_i x[i, d] * W[d, i, j]`, squashed, `(B, J, D)`: one dense layer for each component.

    Args:
        capsules_BID: Capsules `(B, I, D)`.
        weight_DIJ: Weights `(D, I, J)`.

    Examples:
        >>> capsule_dense_per_dim(torch.rand(2, 128, 16), torch.rand(16, 128, 10)).shape
        torch.Size([2, 10, 16])
    """
    out_DBJ = capsules_BID.permute(2, 0, 1) @ weight_DIJ
    return squash(out_DBJ.permute(1, 2, 0))


def capsule_dense_full(
    capsules_BHWND: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, outputs: int
) -> torch.Tensor:
    """Apply a dense layer from all input numbers to all numbers of capsules `(B, J, E)`, then squash.

    Args:
        capsules_BHWND: Capsules `(B, H, W, N, D)`, or a list `(B, I, D)`.
        weight: `(J * E, I * D)`; inputs are ordered type, component, row, column (of a list: capsule, component).
        bias: `(J * E,)`.
        outputs: Number J of output capsules.

    Examples:
        >>> capsule_dense_full(torch.rand(2, 3, 3, 4, 5), torch.rand(20, 180), torch.zeros(20), 10).shape
        torch.Size([2, 10, 2])
    """
    is_map = capsules_BHWND.dim() == 5
    flat = (capsules_BHWND.permute(0, 3, 4, 1, 2) if is_map else capsules_BHWND).flatten(1)
    return squash(F.linear(flat, weight, bias).unflatten(1, (outputs, -1)))


def capsule_dense_factored(
    capsules_BID: torch.Tensor, component_weight_DEJ: torch.Tensor, capsule_weight_JI: torch.Tensor
) -> torch.Tensor:
    """Return `out[j, e] = sum_i W2[j, i] * sum_d x[i, d] * W1[d, e, j]`, squashed, `(B, J, E)`.

    Capsules are gathered before they are mapped, so that the `I * J` mapped capsules never exist.

    Args:
        capsules_BID: Capsules `(B, I, D)`.
        component_weight_DEJ: W1, `(D, E, J)`.
        capsule_weight_JI: W2, `(J, I)`.

    Examples:
        >>> capsule_dense_factored(torch.rand(2, 128, 8), torch.rand(8, 16, 10), torch.rand(10, 128)).shape
        torch.Size([2, 10, 16])
    """
    gathered_BJD = capsule_weight_JI @ capsules_BID
    return squash(torch.einsum("bjd,dej->bje", gathered_BJD, component_weight_DEJ))


def capsule_length(capsules: torch.Tensor, *, dim: int = -1, epsilon: float = 0.0, offset: float = 0.0) -> torch.Tensor:
    """Return `sqrt(|s|^2 + epsilon)` of each capsule, without axis `dim`; its gradient at the zero vector is 0.

    Args:
        capsules: Tensor of any shape; half precision is computed in float32, whole numbers become float32.
        dim: The axis of the capsule's components.
        epsilon: Added under the root, at least 0: 0 for Euclidean lengths, 1e-7 in the code of Efficient-CapsNet
            (Mazzia et al. 2021), where the zero vector has a length of 3e-4.
        offset: Added to each component before, as in the code of DeepCaps (1e-7).

    Examples:
        >>> capsule_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])
    """
    capsules = as_floats(capsules)
    if epsilon < 0:
        raise ArgumentError(f"epsilon must be at least 0; received {epsilon}")
    wide = widen(capsules) + offset if offset else widen(capsules)
    if epsilon:
        return (wide.square().sum(dim) + epsilon).sqrt().to(capsules.dtype)
    lengths: torch.Tensor = torch.linalg.vector_norm(wide, dim=dim)
    return lengths.to(capsules.dtype)


def mask_capsules(capsules_BJE: torch.Tensor, targets_BJ: torch.Tensor | None = None) -> torch.Tensor:
    """Return capsules as one vector `(B, J * E)`, those of absent classes set to 0 (Sabour et al. 2017, section 4.1).

    Args:
        capsules_BJE: Class capsules `(B, J, E)`.
        targets_BJ: 1 for each present class, `(B, J)`; if not given, the longest capsule of each sample is present, the
            first one of equal lengths, and the choice has no gradient.

    Examples:
        >>> capsules = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
        >>> mask_capsules(capsules), mask_capsules(capsules, torch.tensor([[0.0, 1.0]]))
        (tensor([[3., 4., 0., 0.]]), tensor([[0., 0., 1., 1.]]))
    """
    if targets_BJ is None:
        longest_B = capsule_length(capsules_BJE.detach()).argmax(1)
        targets_BJ = F.one_hot(longest_B, capsules_BJE.shape[1])
    return (capsules_BJE * targets_BJ.to(capsules_BJE.dtype).unsqueeze(-1)).flatten(1)
