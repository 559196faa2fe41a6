"""Routing that makes the gradient of its matrices at once.

The matrices of a routing are used in each of its iterations, forward and backward, always through one linear map and
its adjoint: from weighted sums of input capsules to sums of votes, and back. So each use's backward is the other map,
and the gradient of the matrices is a sum of one term for each use. Here the terms are collected and summed at the end,
in pieces that stay in the processor's cache, in place of a gradient as large as the matrices for each use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

Tensors = tuple[torch.Tensor, ...]
Term = tuple[torch.Tensor, Tensors]
"""Sums of features, and the coefficients of the sums of votes that they were contracted with."""


class Moments(Protocol):
    """A linear map from sums of features to sums of votes, made of matrices."""

    def contract(self, gathered: torch.Tensor) -> Tensors:
        """Sums of votes from sums of features."""

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        """The adjoint: `<contract(x), c> = <x, expand(c)>`."""

    def weight_gradient(self, terms: list[Term]) -> torch.Tensor:
        """The gradient of `sum <contract(x), c>` with respect to the matrices."""


def route(
    make_moments: Callable[[torch.Tensor], Moments],
    routing: Callable[..., Tensors],
    weight: torch.Tensor,
    *tensors: torch.Tensor | None,
) -> Tensors:
    """Calls `routing(make_moments(weight), *tensors)`.

    Args:
        make_moments: Makes the linear map.
        routing: A function of the linear map and tensors; it may not use other tensors that need a gradient.
        weight: The matrices.
        *tensors: What else it takes.

    Returns:
        What `routing` returns.
    """
    if torch.compiler.is_compiling():
        return routing(make_moments(weight), *tensors)
    return _Routed.apply(make_moments, routing, weight, *tensors)  # type: ignore[no-any-return]


class _Collecting:
    """Moments whose backward passes collect the terms of the matrices' gradient."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.terms: list[Term] = []

    def contract(self, gathered: torch.Tensor) -> Tensors:
        return _Contract.apply(self, gathered)  # type: ignore[no-any-return]

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        return _Expand.apply(self, *coefficients)  # type: ignore[no-any-return]

    def weight_gradient(self, terms: list[Term]) -> torch.Tensor:
        return self.moments.weight_gradient(terms)


class _Contract(torch.autograd.Function):
    """Its backward is `expand`."""

    @staticmethod
    def forward(context: Any, collecting: _Collecting, gathered: torch.Tensor) -> Tensors:
        context.collecting = collecting
        context.save_for_backward(gathered)
        return collecting.moments.contract(gathered)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        context.collecting.terms.append((context.saved_tensors[0], gradients))
        return None, context.collecting.moments.expand(*gradients)


class _Expand(torch.autograd.Function):
    """Its backward is `contract`."""

    @staticmethod
    def forward(context: Any, collecting: _Collecting, *coefficients: torch.Tensor) -> torch.Tensor:
        context.collecting = collecting
        context.save_for_backward(*coefficients)
        return collecting.moments.expand(*coefficients)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        context.collecting.terms.append((gradients[0], context.saved_tensors))
        return None, *context.collecting.moments.contract(gradients[0])


class _Routed(torch.autograd.Function):
    """A routing with a graph of its own, in which the matrices are no leaf."""

    @staticmethod
    def forward(
        context: Any,
        make_moments: Callable[[torch.Tensor], Moments],
        routing: Callable[..., Tensors],
        weight: torch.Tensor,
        *tensors: torch.Tensor | None,
    ) -> Tensors:
        context.make_moments, context.routing = make_moments, routing
        context.save_for_backward(weight, *tensors)
        with torch.set_grad_enabled(any(context.needs_input_grad)):
            context.collecting = _Collecting(make_moments(weight.detach()))
            context.leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
            context.results = routing(context.collecting, *context.leaves)
        return tuple(result.detach() for result in context.results)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *tensors = context.saved_tensors
        if torch.is_grad_enabled():  # somebody asked for create_graph
            results = context.routing(context.make_moments(weight), *tensors)
            return (None, None, *_gradients(results, [weight, *tensors], gradients, create_graph=True))
        collecting = context.collecting
        with torch.autocast(weight.device.type, enabled=False):  # which may be on around a backward pass
            found = tuple(_gradients(context.results, context.leaves, gradients, retain_graph=True))
            weight_gradient = collecting.weight_gradient(collecting.terms)
        collecting.terms.clear()
        return None, None, weight_gradient, *found


def _gradients(
    results: Tensors, tensors: list[torch.Tensor | None], gradients: Tensors, **options: bool
) -> Iterator[torch.Tensor | None]:
    """The gradients of the tensors; None for constants."""
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, gradients, materialize_grads=True, **options))
    return (next(found) if tensor is not None and tensor.requires_grad else None for tensor in tensors)
