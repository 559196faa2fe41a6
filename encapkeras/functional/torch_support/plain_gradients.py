"""Gradients for backward passes that are differentiated again, and so must go through plain operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from encapkeras.functional.torch_support.precision import without_autocast


def plain_gradients(
    plain: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor | None], gradient: torch.Tensor
) -> Iterator[torch.Tensor | None]:
    """Return differentiable gradients of `plain(*inputs)` for each input; None for constants."""
    # Aliases, because an input may depend on another, or be given twice.
    aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    with without_autocast(gradient):
        yield from gradients_of((plain(*aliases),), aliases, (gradient,), create_graph=True)


def gradients_of(
    results: Sequence[torch.Tensor],
    tensors: Sequence[torch.Tensor | None],
    gradients: Sequence[torch.Tensor],
    **options: bool,
) -> Iterator[torch.Tensor | None]:
    """Return the gradients of `results` for each of the tensors; None for constants."""
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    pairs = [pair for pair in zip(results, gradients, strict=True) if pair[0].requires_grad]
    outputs, upstream = [result for result, _ in pairs], [gradient for _, gradient in pairs]
    found = iter(torch.autograd.grad(outputs, wanted, upstream, materialize_grads=True, **options))
    return (next(found) if tensor is not None and tensor.requires_grad else None for tensor in tensors)
