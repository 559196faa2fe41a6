"""Routing that makes the gradient of its matrices at once.

The matrices of a routing are used in each of its iterations, in a map from weighted sums of input capsules to sums of
votes, and in one back. The gradient of the matrices is a sum of one term for each use. Here the terms are collected in
the backward pass and summed at its end, in pieces that stay in the processor's cache, in place of a gradient as large
as the matrices for each use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch

from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.plain_gradients import gradients_of
from encapkeras.functional.torch_support.precision import without_autocast

Tensors = tuple[torch.Tensor, ...]
Uses = list[tuple[torch.Tensor, Tensors]]
"""Of each use: sums of features, and what belongs to the sums of votes; gradients the one or the other."""


class Moments(Protocol):
    """The two maps, made of matrices. With `requires_grad` matrices all but the backward methods are differentiable."""

    def contract(self, gathered: torch.Tensor) -> Tensors:
        """Return sums of votes from sums of features: a linear map."""

    def contract_backward(self, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradient of `gathered`."""

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        """Return queries whose product with the features is a function of the votes, with these coefficients."""

    def expand_backward(self, gradient: torch.Tensor, coefficients: Tensors) -> Tensors:
        """Return the gradients of the coefficients."""

    def weight_gradient(self, contracted: Uses, expanded: Uses) -> torch.Tensor:
        """Return the matrices' gradient from `(gathered, gradients)` and `(gradient, coefficients)` of all uses."""


def route(
    make_moments: Callable[[torch.Tensor], Moments],
    routing: Callable[..., Tensors],
    weight: torch.Tensor,
    *tensors: torch.Tensor | None,
) -> Tensors:
    """Call `routing(make_moments(weight), *tensors)`; it may use no other tensors that need a gradient."""
    leaves = [tensor for tensor in (weight, *tensors) if tensor is not None and tensor.requires_grad]
    if is_traced() or not (leaves and torch.is_grad_enabled()):
        return routing(make_moments(weight), *tensors)
    return _Routed.apply(make_moments, routing, weight, *tensors)  # type: ignore[no-any-return]


class _Collecting:
    """Moments whose backward passes record each use."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.contracted: Uses = []
        self.expanded: Uses = []

    def contract(self, gathered: torch.Tensor) -> Tensors:
        return _Contract.apply(self, gathered)  # type: ignore[no-any-return]

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        return _Expand.apply(self, *coefficients)  # type: ignore[no-any-return]

    def forget(self) -> None:
        self.contracted.clear()
        self.expanded.clear()


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
        coefficients = context.saved_tensors  # once: checkpointing allows no more
        context.collecting.expanded.append((gradients[0], coefficients))
        return None, *context.collecting.moments.expand_backward(gradients[0], coefficients)


class _Routed(torch.autograd.Function):
    """A routing with its own graph, in which the matrices are not a leaf."""

    @staticmethod
    def forward(
        context: Any,
        make_moments: Callable[[torch.Tensor], Moments],
        routing: Callable[..., Tensors],
        weight: torch.Tensor,
        *tensors: torch.Tensor | None,
    ) -> Tensors:
        with torch.enable_grad():
            collecting = _Collecting(make_moments(weight.detach()))
            leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
            results = routing(collecting, *leaves)
        context.make_moments, context.routing, context.tensors = make_moments, routing, len(tensors)
        # Saved, so that a backward pass frees the inner graph with all else; its nodes keep what collects.
        context.save_for_backward(weight, *tensors, *leaves, *results)
        context.collecting = weakref.ref(collecting)
        return tuple(result.detach() for result in results)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved, count = context.saved_tensors, context.tensors
        inputs, leaves, results = saved[: 1 + count], saved[1 + count : 1 + 2 * count], saved[1 + 2 * count :]
        with without_autocast(inputs[0]):  # which may be on around a backward pass
            if torch.is_grad_enabled():  # with create_graph=True
                # Aliases, for an input may depend on another.
                inputs = tuple(None if tensor is None else tensor.view_as(tensor) for tensor in inputs)
                results = context.routing(context.make_moments(inputs[0]), *inputs[1:])
                return None, None, *gradients_of(results, inputs, gradients, create_graph=True)
            collecting = context.collecting()
            collecting.forget()  # what a backward pass that failed has left
            found = tuple(gradients_of(results, leaves, gradients, retain_graph=True))
            weight_gradient = None
            if context.needs_input_grad[2]:
                weight_gradient = collecting.moments.weight_gradient(collecting.contracted, collecting.expanded)
            collecting.forget()
        return None, None, weight_gradient, *found
