"""Sums of votes, and of their squares, from sums of input capsules; and the adjoint.

A vote is linear in its input capsule: with `u~ = [1, u]` and `W~ = [bias, W]`, `vote_ij = W~[n, j] u~_i`. So weighted
sums of votes over all input capsules need only those of `u~` for each type, and sums of squared votes those of the
products `u~_a u~_b`. The matrices of one routing are used in each of its iterations, so that their gradient has many
terms; these are collected and summed in one matrix product, in pieces of the output capsules that stay in the
processor's cache.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, C = D + 1 components of `u~`, K features
(C of them, or C * (C + 1) / 2 with the products), J output capsules, E their dimension, X = N * C, Y = N * K, j a piece
of J.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

_PIECE = 1 << 18
"""Numbers of weights in a piece: 1 MB in float32."""

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of votes `(J, B, E)`, of squared votes (the same shape, or empty), and of what they are weighted by `(J, B, 1)`."""


def vote_matrices(weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """`W~ = [bias, W]`, in the order in which sums of votes use it.

    Args:
        weight_NJED: Matrices of the votes.
        bias_NJE: What is added to the votes.

    Returns:
        `(J, N, D + 1, E)`.
    """
    weight_JNDE = weight_NJED.permute(1, 0, 3, 2)
    if bias_NJE is None:
        return F.pad(weight_JNDE, (0, 0, 1, 0))
    return torch.cat([bias_NJE.transpose(0, 1).unsqueeze(2), weight_JNDE], 2)


def products(component: torch.Tensor, dim: int) -> torch.Tensor:
    """`x_a x_b` for all a <= b: first those with `a = 0`, which for `x = [1, u]` are x itself.

    Args:
        component: Any tensor.
        dim: The axis of the components.

    Returns:
        The tensor with `C (C + 1) / 2` products in place of C components.

    Example:
        >>> products(torch.tensor([1.0, 2.0, 3.0]), 0)
        tensor([1., 2., 3., 4., 6., 9.])
    """
    size = component.shape[dim]
    pairs = [(component.narrow(dim, a, 1), component.narrow(dim, a, size - a)) for a in range(size)]
    if component.requires_grad:
        return torch.cat([left * right for left, right in pairs], dim)
    shape = list(component.shape)
    shape[dim] = size * (size + 1) // 2
    out, start = component.new_empty(shape), 0
    for left, right in pairs:  # written in place: for matrices, the largest tensor of a routing
        torch.mul(left, right, out=out.narrow(dim, start, right.shape[dim]))
        start += right.shape[dim]
    return out


def features(component_BNCP: torch.Tensor) -> torch.Tensor:
    """The products of components, those of two different ones twice: `a < b` stands for `b < a` too.

    Args:
        component_BNCP: `u~`.

    Returns:
        `(B, N, K, P)`; their sums with the products of the matrices' components are sums of squares.
    """
    size = component_BNCP.shape[2]
    times = torch.cat([torch.tensor([1.0] + [2.0] * (size - a - 1)) for a in range(size)])
    return products(component_BNCP, 2) * times.to(component_BNCP).unsqueeze(1)


def route(
    routing: Callable[..., tuple[torch.Tensor, ...]],
    weight_JNCE: torch.Tensor,
    *tensors: torch.Tensor | None,
    squares: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Calls `routing(moments, *tensors)` so that its backward pass makes the gradient of the weights at once.

    Args:
        routing: A function of `VoteMoments` and tensors; it may not use other tensors that need a gradient.
        weight_JNCE: The matrices `W~`.
        *tensors: What else it takes.
        squares: Whether it takes sums of squared votes.

    Returns:
        What `routing` returns.
    """
    if torch.compiler.is_compiling():
        return routing(VoteMoments(weight_JNCE, squares), *tensors)
    return _Routed.apply(routing, squares, weight_JNCE, *tensors)  # type: ignore[no-any-return]


class VoteMoments:
    """The two linear maps between sums of input capsules and sums of votes.

    Args:
        weight_JNCE: The matrices `W~`.
        squares: Whether sums of squared votes are wanted too.
    """

    def __init__(self, weight_JNCE: torch.Tensor, squares: bool) -> None:
        self.weight_JNCE = weight_JNCE
        self.components = weight_JNCE.shape[2]
        # `features` has u_a twice, as 1 * u_a and u_a * 1.
        self.times_C1 = weight_JNCE.new_tensor([1.0] + [0.5 if squares else 1.0] * (self.components - 1)).unsqueeze(1)
        self.first_JXE = (weight_JNCE * self.times_C1).flatten(1, 2) if squares else weight_JNCE.flatten(1, 2)
        self.second_JYE = products(weight_JNCE, 2).flatten(1, 2) if squares else None

    def contract(self, gathered_JBY: torch.Tensor) -> Sums:
        """Sums of votes from sums of features.

        Args:
            gathered_JBY: For each output capsule the weighted sums of the features of each type.
        """
        component_JBNC = self._components_of(gathered_JBY)
        first_JBE = component_JBNC.flatten(2) @ self.first_JXE
        second_JBE = first_JBE.new_empty(0) if self.second_JYE is None else gathered_JBY @ self.second_JYE
        return first_JBE, second_JBE, component_JBNC[..., 0].sum(2, keepdim=True)

    def expand(self, first_JBE: torch.Tensor, second_JBE: torch.Tensor, amount_JB1: torch.Tensor) -> torch.Tensor:
        """The adjoint of `contract`: what a feature's product with is `first . vote + second . vote^2 + amount`.

        Args:
            first_JBE: Coefficients of the votes.
            second_JBE: Coefficients of their squares; not used without squares.
            amount_JB1: The constant.

        Returns:
            `(J, B, Y)`.
        """
        linear_JBX = first_JBE @ self.first_JXE.mT
        out_JBY = linear_JBX if self.second_JYE is None else second_JBE @ self.second_JYE.mT
        component_JBNC = self._components_of(out_JBY)
        if self.second_JYE is not None:
            component_JBNC += linear_JBX.view(component_JBNC.shape)
        component_JBNC[..., 0] += amount_JB1
        return out_JBY

    def _components_of(self, features_JBY: torch.Tensor) -> torch.Tensor:
        by_type: torch.Tensor = features_JBY.unflatten(2, (self.weight_JNCE.shape[1], -1))
        return by_type[..., : self.components]


class _CollectingMoments(VoteMoments):
    """`VoteMoments` whose backward passes collect the terms of the weights' gradient."""

    def __init__(self, weight_JNCE: torch.Tensor, squares: bool) -> None:
        super().__init__(weight_JNCE, squares)
        self.terms: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def contract(self, gathered_JBY: torch.Tensor) -> Sums:
        return _Contract.apply(self, gathered_JBY)  # type: ignore[no-any-return]

    def expand(self, first_JBE: torch.Tensor, second_JBE: torch.Tensor, amount_JB1: torch.Tensor) -> torch.Tensor:
        return _Expand.apply(self, first_JBE, second_JBE, amount_JB1)  # type: ignore[no-any-return]

    def collect_gradient(self) -> torch.Tensor:
        """The sum of all terms, `(J, N, C, E)`; they are forgotten."""
        gradient_JNCE = torch.zeros_like(self.weight_JNCE)
        outputs, types, _, dim = gradient_JNCE.shape
        size = max(1, _PIECE // (self.terms[0][0].shape[2] * dim))
        for start in range(0, outputs, size):
            piece = slice(start, start + size)
            gradient_jNCE = gradient_JNCE[piece]
            gradient_jXE = gradient_jNCE.flatten(1, 2)
            for feature_JBY, first_JBE, _ in self.terms:
                gradient_jXE.baddbmm_(self._components_of(feature_JBY[piece]).flatten(2).mT, first_JBE[piece])
            if self.second_JYE is not None:
                gradient_jNCE.mul_(self.times_C1)
                gradient_jYE = torch.zeros_like(self.second_JYE[piece])
                for feature_JBY, _, second_JBE in self.terms:
                    gradient_jYE.baddbmm_(feature_JBY[piece].mT, second_JBE[piece])
                _through_products(self.weight_JNCE[piece], gradient_jYE.unflatten(1, (types, -1)), gradient_jNCE)
        self.terms.clear()
        return gradient_JNCE


class _Contract(torch.autograd.Function):
    """Its backward is `expand`."""

    @staticmethod
    def forward(context: Any, moments: _CollectingMoments, gathered_JBY: torch.Tensor) -> Sums:
        context.moments = moments
        context.save_for_backward(gathered_JBY)
        return VoteMoments.contract(moments, gathered_JBY)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gathered_JBY,) = context.saved_tensors
        first_JBE, second_JBE, amount_JB1 = gradients
        context.moments.terms.append((gathered_JBY, first_JBE, second_JBE))
        return None, VoteMoments.expand(context.moments, first_JBE, second_JBE, amount_JB1)


class _Expand(torch.autograd.Function):
    """Its backward is `contract`."""

    @staticmethod
    def forward(
        context: Any,
        moments: _CollectingMoments,
        first_JBE: torch.Tensor,
        second_JBE: torch.Tensor,
        amount_JB1: torch.Tensor,
    ) -> torch.Tensor:
        context.moments = moments
        context.save_for_backward(first_JBE, second_JBE)
        return VoteMoments.expand(moments, first_JBE, second_JBE, amount_JB1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        context.moments.terms.append((gradients[0], *context.saved_tensors))
        return None, *VoteMoments.contract(context.moments, gradients[0])


class _Routed(torch.autograd.Function):
    """A routing with a graph of its own, in which the weights are no leaf."""

    @staticmethod
    def forward(
        context: Any,
        routing: Callable[..., tuple[torch.Tensor, ...]],
        squares: bool,
        weight_JNCE: torch.Tensor,
        *tensors: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        context.routing, context.squares = routing, squares
        context.save_for_backward(weight_JNCE, *tensors)
        with torch.set_grad_enabled(any(context.needs_input_grad)):
            context.moments = _CollectingMoments(weight_JNCE.detach(), squares)
            context.leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
            context.results = routing(context.moments, *context.leaves)
        return tuple(result.detach() for result in context.results)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight_JNCE, *tensors = context.saved_tensors
        if torch.is_grad_enabled():  # somebody asked for create_graph
            results = context.routing(VoteMoments(weight_JNCE, context.squares), *tensors)
            return (None, None, *_gradients(results, [weight_JNCE, *tensors], gradients, create_graph=True))
        with torch.autocast(weight_JNCE.device.type, enabled=False):  # which may be on around a backward pass
            found = tuple(_gradients(context.results, context.leaves, gradients, retain_graph=True))
            return None, None, context.moments.collect_gradient(), *found


def _gradients(
    results: tuple[torch.Tensor, ...],
    tensors: list[torch.Tensor | None],
    gradients: tuple[torch.Tensor, ...],
    **options: bool,
) -> Iterator[torch.Tensor | None]:
    """The gradients of the tensors; None for constants."""
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, gradients, materialize_grads=True, **options))
    return (next(found) if tensor is not None and tensor.requires_grad else None for tensor in tensors)


def _through_products(weight_jNCE: torch.Tensor, gradient_jNKE: torch.Tensor, out_jNCE: torch.Tensor) -> None:
    """Adds the backward of `products` to `out`."""
    start, components = 0, weight_jNCE.shape[2]
    for a in range(components):
        row_jNCE = gradient_jNKE[:, :, start : start + components - a]
        out_jNCE[:, :, a] += (row_jNCE * weight_jNCE[:, :, a:]).sum(2)
        out_jNCE[:, :, a:].addcmul_(row_jNCE, weight_jNCE[:, :, a : a + 1])
        start += components - a
