"""Votes of a piece of the children, and their products with what belongs to the parents.

A pose is a vector of D numbers, whose vote is `W u`; or a matrix of A rows, row-major in its vector, whose vote is the
product `U W` of matrices. Votes are kept by rows, a vector being one row.

Shape suffixes: n children, M parent positions, D dimension of a child, A rows and C columns of a pose, J parent types,
E = A * C, X = D / A.
"""

from __future__ import annotations

from typing import Literal

import torch

from encapkeras.errors import ShapeError

Pose = Literal["vector", "matrix"]


def votes(child_nMD: torch.Tensor, weight: torch.Tensor, pose: Pose) -> torch.Tensor:
    """Return votes `(n, M, A, J, C)` by matrices `(n, J, E, D)` of vectors, or `(n, J, X, C)` of matrices."""
    outputs = weight.shape[1]
    if pose == "vector":
        return (child_nMD @ weight.flatten(1, 2).mT).unflatten(2, (1, outputs, -1))
    rows = child_nMD.shape[2] // weight.shape[2]
    row_nRX = child_nMD.unflatten(2, (rows, -1)).flatten(1, 2)
    by_row = row_nRX @ weight.transpose(1, 2).flatten(2)
    return by_row.view(len(weight), -1, rows, outputs, weight.shape[3])


def agreement(vote_nMAJC: torch.Tensor, parent_MAJC: torch.Tensor) -> torch.Tensor:
    """Return the products of votes with parents, `(n, M, J)`."""
    return (vote_nMAJC * parent_MAJC).sum((2, 4))


def gather(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor) -> torch.Tensor:
    """Return sums of votes weighted by shares, `(M, A, J, C)`."""
    return (share_nMJ[:, :, None, :, None] * vote_nMAJC).sum(0)


def by_rows(pose_JE: torch.Tensor, rows: int) -> torch.Tensor:
    """View poses `(..., J, E)` by rows, `(..., A, J, C)`."""
    return pose_JE.unflatten(-1, (rows, -1)).movedim(-2, -3)


def as_poses(row_AJC: torch.Tensor) -> torch.Tensor:
    """Return poses by rows `(..., A, J, C)` as `(..., J, E)`."""
    return row_AJC.movedim(-3, -2).flatten(-2)


def rows_of(dim: int, weight: torch.Tensor, pose: Pose) -> int:
    """Return the number A of rows of the poses that matrices `(..., J, E, D)` or `(..., J, X, C)` take."""
    if pose == "vector":
        return 1
    inner = int(weight.shape[-2])
    if dim % inner:
        raise ShapeError(f"matrices with {inner} rows do not take poses of {dim} numbers")
    return dim // inner
