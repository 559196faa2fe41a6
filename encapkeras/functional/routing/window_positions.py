"""Matrices that each position of the parents has for itself: each parent is routed alone.

Shape suffixes: B batch, H W map of the children, P Q map of the parents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.routing_inputs import check_map
from encapkeras.functional.routing.window_votes import Side, windows_of

Parts = list[torch.Tensor | None]


def has_positions(weight: torch.Tensor) -> bool:
    """Return whether matrices of votes are `(P, Q, K_h, K_w, N, J, ., .)`."""
    return weight.dim() == 8


def route_positions(
    route: Callable[[list[torch.Tensor], Parts, list[torch.Tensor]], Sequence[torch.Tensor | None]],
    maps: Sequence[torch.Tensor],
    weights: Mapping[str, torch.Tensor | None],
    parents: Sequence[torch.Tensor] = (),
    *,
    strides: Side = 1,
    padding: Side = 0,
    window: Side | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """Route the parents of each position by weights of its own.

    Args:
        route: Takes what belongs to one position: children in its window `(B, K_h, K_w, ...)`, weights without their
            first two axes, and parents `(B, 1, 1, ...)`. Returns tensors `(B, 1, 1, ...)`, or None. Children outside
            the map are 0.
        maps: Children `(B, H, W, N, D)`, and what else belongs to them, `(B, H, W, ...)`.
        weights: By name `(P, Q, K_h, K_w, ...)`, or None; the first is that which has a window.
        parents: `(B, P, Q, ...)`.
        strides: Step of the windows.
        padding: Rows and columns of nothing around the map.
        window: Rows and columns of the window; those of the weight if not given.

    Returns:
        What `route` returns, each `(B, P, Q, ...)`.

    Raises:
        ArgumentError: `strides`, `padding` or `window` has an invalid value.
        ShapeError: The sizes do not match.
    """
    check_map(maps[0])
    first = next(weight for weight in weights.values() if weight is not None)
    windows = windows_of(first[0, 0], strides, padding, window)
    height, width = windows.output_size(*maps[0].shape[1:3])
    for name, weight in weights.items():
        if weight is not None and tuple(weight.shape[:2]) != (height, width):
            raise ShapeError(
                f"{name} must be ({height}, {width}, window height, window width, ...) where weight has matrices for "
                f"each of {height} x {width} positions; received {tuple(weight.shape)}"
            )
    padded = [windows.pad(part) for part in maps]
    found = []
    for p, q in itertools.product(range(height), range(width)):
        starts = (p * windows.strides[0], q * windows.strides[1])
        rows, columns = (slice(s, s + size) for s, size in zip(starts, windows.kernel_size, strict=True))
        found.append(
            route(
                [part[:, rows, columns] for part in padded],
                [None if weight is None else weight[p, q] for weight in weights.values()],
                [part[:, p : p + 1, q : q + 1] for part in parents],
            )
        )
    return tuple(_join(parts, (height, width)) for parts in zip(*found, strict=True))


def _join(parts_B11: Sequence[torch.Tensor | None], size: tuple[int, int]) -> torch.Tensor | None:
    given = [part_B11 for part_B11 in parts_B11 if part_B11 is not None]
    return torch.cat(given, 1).squeeze(2).unflatten(1, size) if given else None
