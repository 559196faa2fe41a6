"""A function of independent samples, called for some of them at a time, so that what it makes stays in the cache.

Nothing is kept for the backward pass but the inputs: the function is called again, with a graph, piece by piece. Where
all samples make little, it is called once, for all, and what it makes is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.plain_gradients import gradients_of
from encapkeras.functional.torch_support.precision import without_autocast

_PIECE = {"cpu": 1 << 20}
"""Numbers of a piece: 4 MB in float32; elsewhere as many as keep the device busy."""
_PIECE_ELSEWHERE = 1 << 26
_LITTLE = 1 << 22
"""Numbers of all samples that need no pieces."""

Tensors = tuple[torch.Tensor, ...]


def call_by_samples(
    function: Callable[..., Tensors],
    of_samples: Sequence[torch.Tensor | None],
    of_all: Sequence[torch.Tensor | None],
    numbers: int,
    *,
    little: int = _LITTLE,
    piece: int | None = None,
) -> Tensors:
    """Return `function(*of_samples, *of_all)`, whose results have one entry a sample, as have the first tensors.

    Derivatives of any order. `numbers` is how many numbers the largest tensor inside has for each sample, `little` how
    many of all samples are kept, and `piece` how many a piece has at most. A program that is recorded has one call.
    """
    if is_traced() or (of_samples[0] is not None and len(of_samples[0]) * numbers <= little):
        return function(*of_samples, *of_all)
    tensors = (*of_samples, *of_all)
    return _BySamples.apply(function, (numbers, piece), len(of_samples), *tensors)  # type: ignore[no-any-return]


def _pieces(first: torch.Tensor, numbers: int, piece: int | None) -> Iterator[slice]:
    size = max(1, (piece or _PIECE.get(first.device.type, _PIECE_ELSEWHERE)) // numbers)
    return (slice(start, start + size) for start in range(0, max(len(first), 1), size))


class _BySamples(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        function: Callable[..., Tensors],
        sizes: tuple[int, int | None],
        count: int,
        *tensors: torch.Tensor | None,
    ) -> Tensors:
        context.function, context.sizes, context.count = function, sizes, count
        context.save_for_backward(*tensors)
        pieces = _pieces(tensors[0], *sizes)  # type: ignore[arg-type]
        results = [function(*_of_piece(piece, count, tensors)) for piece in pieces]
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors, count = context.saved_tensors, context.count
        wanted = context.needs_input_grad[3:]
        with without_autocast(tensors[0]):
            if torch.is_grad_enabled():  # with create_graph=True
                inputs: list[Any] = [None if each is None else each.view_as(each) for each in tensors]
                results = context.function(*inputs)
                return None, None, None, *gradients_of(results, inputs, gradients, create_graph=True)
            parts = []
            for piece in _pieces(tensors[0], *context.sizes):
                given = zip(_of_piece(piece, count, tensors), wanted, strict=True)
                leaves: list[Any] = [
                    None if each is None else each.detach().requires_grad_(want) for each, want in given
                ]
                with torch.enable_grad():
                    results = context.function(*leaves)
                parts.append(list(gradients_of(results, leaves, [gradient[piece] for gradient in gradients])))
        of_tensors = list(zip(*parts, strict=True))
        pairs = list(zip(of_tensors, wanted, strict=True))
        of_samples = [torch.cat(each) if want else None for each, want in pairs[:count]]
        of_all = [sum(each[1:], each[0]) if want else None for each, want in pairs[count:]]
        return None, None, None, *of_samples, *of_all


def _of_piece(piece: slice, count: int, tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    cut = [None if each is None else each[piece] for each in tensors[:count]]
    return [*cut, *tensors[count:]]
