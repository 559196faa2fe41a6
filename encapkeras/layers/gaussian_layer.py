"""The common part of layers whose parents are Gaussians of the votes in windows: activations and coordinates.

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, K L height and width of the window.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers.window_layer import WindowLayer, WindowShape


class GaussianLayer(WindowLayer):
    """Base class of `window_em_capsules` and `variational_bayes_capsules`.

    A method says in `coordinates_of` what is added to the votes for the place of a child in its window.
    """

    takes_activations = True
    scores_are = "activation"
    ports: ClassVar[tuple[str, ...]] = ("out", "activations")
    dim: int
    kernel: Any

    def __init__(self, capsules: int, dim: int, *, iterations: int, coordinates: str | None, **kwargs: Any) -> None:
        super().__init__(capsules, dim, **kwargs)
        self.iterations = iterations
        self.coordinates = coordinates
        if coordinates is not None and self.pose != "matrix":
            raise ArgumentError(
                f"{self.name}: coordinates are added to two elements of a matrix; received coordinates={coordinates!r} "
                f"with pose={self.pose!r}"
            )

    def read_shape(self, input_shape: Any) -> WindowShape:
        """Return the sizes that follow from the inputs' shapes; raise `ShapeError` if they do not fit."""
        shape = super().read_shape(input_shape)
        if self.coordinates is not None and shape.dim < 4:
            raise ShapeError(
                f"{self.name}: coordinates are added to the first two rows of a matrix; received capsules of dimension "
                f"{shape.dim}, of one row: at least 4 are needed, or coordinates null"
            )
        return shape

    def coordinates_of(self, row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is added to the last column of the first and of the second row of votes.

        Args:
            row: 0, 1, 2, ... `(K, 1)`.
            column: 0, 1, 2, ... `(1, L)`.
        """
        raise NotImplementedError(f"class {type(self).__name__} has no coordinates_of")

    def vote_offsets(self, like: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the votes from the offsets of a window, `(K, L, E)`."""
        if self.coordinates is None:
            return None
        dtype = torch.promote_types(like.dtype, torch.float32)
        row, column = (torch.arange(side, dtype=dtype, device=like.device) for side in self.window)
        rows = math.isqrt(self.child_dim)
        added_KLE = torch.zeros(*self.window, self.dim, dtype=dtype, device=like.device)
        by_row = added_KLE.unflatten(-1, (rows, -1))
        by_row[..., 0, -1], by_row[..., 1, -1] = self.coordinates_of(row.unsqueeze(1), column.unsqueeze(0))
        return added_KLE

    def lay_out_ports(self, out: torch.Tensor, activations: torch.Tensor, return_ports: bool) -> Any:
        """Return parents `(B, P, Q, J, E)` and their activations, both if ports are asked for."""
        if not return_ports:
            return self.lay_out(out)
        return {"out": self.lay_out(out), "activations": self.lay_out(activations)}
