"""Matrices that each position of the parents has for itself: each parent is routed alone.

Shape suffixes: B batch, H W map of the children, P Q map of the parents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.routing_inputs import check_map
from encapkeras.functional.routing.window_votes import Side, windows_of

_Result = TypeVar("_Result")


def has_positions(weight: torch.Tensor) -> bool:
    """Return whether matrices of votes are `(P, Q, K_h, K_w, N, J, ., .)`."""
    return weight.dim() == 8


def route_positions(
    route: Callable[..., _Result],
    maps: Sequence[torch.Tensor],
    weights: Mapping[str, torch.Tensor | None],
    parents: Sequence[torch.Tensor] = (),
    *,
    strides: Side = 1,
    padding: Side = 0,
    window: Side | None = None,
) -> _Result:
    """Route the parents of each position by weights of its own.

    Args:
        route: Called with what belongs to one position: the children in its window `(B, K_h, K_w, ...)`, 0 outside the
            map; then weights without their first two axes, and parents `(B, 1, 1, ...)`. It returns a tensor
            `(B, 1, 1, ...)`, or a tuple of them and of None.
        maps: Children `(B, H, W, N, D)`, and what else belongs to them, `(B, H, W, ...)`.
        weights: By name `(P, Q, K_h, K_w, ...)`, or None; the first that is given has the windows.
        parents: `(B, P, Q, ...)`.
        strides: Step of the windows.
        padding: Rows and columns of nothing around the map.
        window: Rows and columns of the windows, those of the weight if not given.

    Returns:
        What `route` returns, of all positions: `(B, P, Q, ...)`.

    Raises:
        ArgumentError: `strides`, `padding` or `window` has an invalid value.
        ShapeError: The sizes do not match.
    """
    check_map(maps[0])
    first = next(weight for weight in weights.values() if weight is not None)
    windows = windows_of(first[0, 0], strides, padding, window)
    size = windows.output_size(*maps[0].shape[1:3])
    for name, weight in weights.items():
        if weight is not None and tuple(weight.shape[:2]) != size:
            raise ShapeError(
                f"{name} must be ({size[0]}, {size[1]}, window height, window width, ...), of each of {size[0]} x "
                f"{size[1]} positions; received {tuple(weight.shape)}"
            )
    padded = [windows.pad(part) for part in maps]
    found = []
    for p, q in itertools.product(*map(range, size)):
        starts = (p * windows.strides[0], q * windows.strides[1])
        rows, columns = (slice(s, s + length) for s, length in zip(starts, windows.kernel_size, strict=True))
        children = [part[:, rows, columns] for part in padded]
        own = [None if weight is None else weight[p, q] for weight in weights.values()]
        found.append(route(*children, *own, *(part[:, p : p + 1, q : q + 1] for part in parents)))
    result: _Result = _join(found, size)
    return result


def _join(parts: Sequence[Any], size: tuple[int, int]) -> Any:
    if isinstance(parts[0], tuple):
        return tuple(_join(same, size) for same in zip(*parts, strict=True))
    return None if parts[0] is None else torch.cat(list(parts), 1).squeeze(2).unflatten(1, size)
