"""Routing that makes the gradient of its matrices at once.

The matrices of a routing are used in each of its iterations, in a map from weighted sums of input capsules to sums of
votes, and in one back. The gradient of the matrices is a sum of one term for each use. Here the terms are collected in
the backward pass and summed at its end, in pieces that stay in the processor's cache, in place of a gradient as large
as the matrices for each use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

Tensors = tuple[torch.Tensor, ...]
Uses = list[tuple[torch.Tensor, Tensors]]
"""Of each use: sums of features, and what belongs to the sums of votes; gradients the one or the other."""


class Moments(Protocol):
    """The two maps, made of matrices. With `requires_grad` matrices all but the backward methods are differentiable."""

    def contract(self, gathered: torch.Tensor) -> Tensors:
        """Sums of votes from sums of features: a linear map."""

    def contract_backward(self, *gradients: torch.Tensor) -> torch.Tensor:
        """The gradient of `gathered`."""

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        """What the product of with features is a function of votes with these coefficients."""

    def expand_backward(self, gradient: torch.Tensor, coefficients: Tensors) -> Tensors:
        """The gradients of the coefficients."""

    def weight_gradient(self, contracted: Uses, expanded: Uses) -> torch.Tensor:
        """The gradient of the matrices, from `(gathered, gradients)` and `(gradient, coefficients)` of all uses."""


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
    leaves = [tensor for tensor in (weight, *tensors) if tensor is not None and tensor.requires_grad]
    if torch.compiler.is_compiling() or not (leaves and torch.is_grad_enabled()):
        return routing(make_moments(weight), *tensors)
    return _Routed.apply(make_moments, routing, weight, *tensors)  # type: ignore[no-any-return]


class _Collecting:
    """Moments whose backward passes note each use."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.contracted: Uses = []
        self.expanded: Uses = []

    def contract(self, gathered: torch.Tensor) -> Tensors:
        return _Contract.apply(self, gathered)  # type: ignore[no-any-return]

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        return _Expand.apply(self, *coefficients)  # type: ignore[no-any-return]

    def take_weight_gradient(self) -> torch.Tensor:
        gradient = self.moments.weight_gradient(self.contracted, self.expanded)
        self.contracted.clear()
        self.expanded.clear()
        return gradient


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, collecting: _Collecting, gathered: torch.Tensor) -> Tensors:
        context.collecting = collecting
        context.save_for_backward(gathered)
        return collecting.moments.contract(gathered)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        context.collecting.contracted.append((context.saved_tensors[0], gradients))
        return None, context.collecting.moments.contract_backward(*gradients)


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, collecting: _Collecting, *coefficients: torch.Tensor) -> torch.Tensor:
        context.collecting = collecting
        context.save_for_backward(*coefficients)
        return collecting.moments.expand(*coefficients)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        context.collecting.expanded.append((gradients[0], context.saved_tensors))
        return None, *context.collecting.moments.expand_backward(gradients[0], context.saved_tensors)


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
        with torch.enable_grad():
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
        with torch.autocast(weight.device.type, enabled=False):  # which may be on around a backward pass
            found = tuple(_gradients(context.results, context.leaves, gradients, retain_graph=True))
            return None, None, context.collecting.take_weight_gradient(), *found


def _gradients(
    results: Tensors, tensors: list[torch.Tensor | None], gradients: Tensors, **options: bool
) -> Iterator[torch.Tensor | None]:
    """The gradients of the tensors; None for constants."""
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, gradients, materialize_grads=True, **options))
    return (next(found) if tensor is not None and tensor.requires_grad else None for tensor in tensors)
