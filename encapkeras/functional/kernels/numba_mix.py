"""Small matrices along the channels of each capsule type, by numba: memory is read and written once.

Shape suffixes: B batch, N capsule types, D and E capsule dimensions before and after, P positions, C = N * D.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch

from encapkeras.functional.kernels.numba_compiler import parallel_kernel, threads_of_torch


def mix(map_BCP: torch.Tensor, matrix_NED: torch.Tensor, added_BCP: torch.Tensor | None) -> torch.Tensor:
    """Return `matrix[n] @ x[b, n] + added`, `(B, N * E, P)`."""
    batch, _, positions = map_BCP.shape
    out_BCP = map_BCP.new_empty(batch, matrix_NED.shape[0] * matrix_NED.shape[1], positions)
    arguments = _arrays(map_BCP, matrix_NED, out_BCP if added_BCP is None else added_BCP, out_BCP)
    arguments.append(added_BCP is None)
    with threads_of_torch():
        _mix(*arguments)
    return out_BCP


def mix_backward(
    map_BCP: torch.Tensor, matrix_NED: torch.Tensor, gradient_BCP: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of map and matrices."""
    results = (torch.empty_like(map_BCP), torch.empty_like(matrix_NED))
    with threads_of_torch():
        _mix_backward(*_arrays(map_BCP, matrix_NED, gradient_BCP, *results))
    return results


def trial(dtype: torch.dtype) -> Iterator[None]:
    """Run each kernel once on a small map."""
    map_BCP, matrix_NED = torch.ones(2, 1, 1, 1, dtype=dtype)
    mix(map_BCP, matrix_NED, None)
    yield
    mix_backward(map_BCP, matrix_NED, map_BCP)


def _arrays(*tensors: torch.Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


@parallel_kernel
def _mix(map_BCP: Any, matrix_NED: Any, added_BCP: Any, out_BCP: Any, alone: bool) -> None:
    types, out_dim, dim = matrix_NED.shape
    for k in numba.prange(len(map_BCP) * types):
        b, n = k // types, k % types
        for e in range(out_dim):
            row = n * out_dim + e
            factor = matrix_NED[n, e, 0]
            if alone:
                for p in range(map_BCP.shape[2]):
                    out_BCP[b, row, p] = factor * map_BCP[b, n * dim, p]
            else:
                for p in range(map_BCP.shape[2]):
                    out_BCP[b, row, p] = added_BCP[b, row, p] + factor * map_BCP[b, n * dim, p]
            for d in range(1, dim):
                factor = matrix_NED[n, e, d]
                for p in range(map_BCP.shape[2]):
                    out_BCP[b, row, p] += factor * map_BCP[b, n * dim + d, p]


@parallel_kernel
def _mix_backward(map_BCP: Any, matrix_NED: Any, gradient_BCP: Any, out_BCP: Any, matrix_gradient_NED: Any) -> None:
    batch = len(map_BCP)
    types, out_dim, dim = matrix_NED.shape
    part_BNED = np.empty((batch, types, out_dim, dim), map_BCP.dtype)
    zero = map_BCP.dtype.type(0)
    for k in numba.prange(batch * types):
        b, n = k // types, k % types
        for d in range(dim):
            row = n * dim + d
            for e in range(out_dim):
                factor, other = matrix_NED[n, e, d], n * out_dim + e
                total = zero
                if e == 0:
                    for p in range(map_BCP.shape[2]):
                        out_BCP[b, row, p] = factor * gradient_BCP[b, other, p]
                        total += gradient_BCP[b, other, p] * map_BCP[b, row, p]
                else:
                    for p in range(map_BCP.shape[2]):
                        out_BCP[b, row, p] += factor * gradient_BCP[b, other, p]
                        total += gradient_BCP[b, other, p] * map_BCP[b, row, p]
                part_BNED[b, n, e, d] = total
    for n in numba.prange(types):
        for e in range(out_dim):
            for d in range(dim):
                total = 0.0
                for b in range(batch):
                    total += part_BNED[b, n, e, d]
                matrix_gradient_NED[n, e, d] = total
