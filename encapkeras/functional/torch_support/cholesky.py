"""Cholesky factors that no GPU is waited for."""

from __future__ import annotations

import math

import torch

from encapkeras.functional.torch_support.fake_tensors import is_traced


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Return the lower factor `L` of positive definite matrices, `L L^T = matrix`.

    Args:
        matrix: `(..., E, E)`.

    Returns:
        Factors of the same shape. Where a matrix has none: NaN on a GPU, which would have to be waited for.

    Raises:
        RuntimeError: A matrix has none; on CPUs only.
    """
    if matrix.device.type in ("cpu", "meta") or is_traced():
        factor: torch.Tensor = torch.linalg.cholesky(matrix)
        return factor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed == 0)[..., None, None], factor, math.nan)
