"""Sums over votes and over their components, with backward passes that read and write all votes few times.

Routing takes as long as its passes over the votes, and those that autograd records are about twice as many.

Shape suffixes: n a piece of the children, M of the parents' positions, J parent types, A rows and C columns of a pose.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import torch

from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.plain_gradients import gradients_of

_ONLY_GRADIENTS = contextvars.ContextVar("only_gradients", default=False)


@contextlib.contextmanager
def only_gradients() -> Iterator[None]:
    """Leave sums over children NaN: for a backward pass that makes a piece anew, which has no use for them."""
    token = _ONLY_GRADIENTS.set(True)
    try:
        yield
    finally:
        _ONLY_GRADIENTS.reset(token)


def gather(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor) -> torch.Tensor:
    """Return sums of votes weighted by shares, `(M, A, J, C)`; in a sum over children, as it is."""
    sum_MAJC: torch.Tensor = _call(_Gather, share_nMJ, vote_nMAJC)
    return sum_MAJC


def moments(
    share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums of votes relative to a center, and of their squares, both weighted by shares; as `gather`."""
    first_MAJC, second_MAJC = _call(_Moments, share_nMJ, vote_nMAJC, center_MAJC)
    return first_MAJC, second_MAJC


def distance(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor_MAJC: torch.Tensor) -> torch.Tensor:
    """Return `sum_e factor_e (vote_e - mean_e)^2`, `(n, M, J)`."""
    sum_nMJ: torch.Tensor = _call(_Distance, vote_nMAJC, mean_MAJC, factor_MAJC)
    return sum_nMJ


def _call(function: type[_Sums], *tensors: torch.Tensor) -> Any:
    return function.plain(*tensors) if is_traced() or not torch.is_grad_enabled() else function.apply(*tensors)


class _Sums(torch.autograd.Function):
    """Sums whose gradients are differentiable too, by plain operations."""

    plain: Callable[..., Any]
    quick: Callable[..., tuple[torch.Tensor | None, ...]]

    @classmethod
    def forward(cls, context: Any, *tensors: torch.Tensor) -> Any:
        context.save_for_backward(*tensors)
        return cls.plain(*tensors)

    @classmethod
    def backward(cls, context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return cls.quick(*context.saved_tensors, *gradients)
        aliases = [tensor.view_as(tensor) for tensor in context.saved_tensors]
        made = cls.plain(*aliases)
        return tuple(gradients_of(made if isinstance(made, tuple) else (made,), aliases, gradients, create_graph=True))


class _Gather(_Sums):
    @staticmethod
    def plain(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor) -> torch.Tensor:
        if _ONLY_GRADIENTS.get():
            return _not_summed(vote_nMAJC)
        return (_by_component(share_nMJ) * vote_nMAJC.mT).sum(0).mT  # sums lie in memory as they are written here

    @staticmethod
    def quick(
        share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, gradient_MAJC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradient_MACJ = gradient_MAJC.mT
        for_share_nMJ = (vote_nMAJC.mT * gradient_MACJ).sum((2, 3))
        return for_share_nMJ, (_by_component(share_nMJ) * gradient_MACJ).mT


class _Moments(_Sums):
    @staticmethod
    def plain(
        share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if _ONLY_GRADIENTS.get():
            return _not_summed(vote_nMAJC), _not_summed(vote_nMAJC)
        away_nMACJ = vote_nMAJC.mT - center_MAJC.mT
        weighted_nMACJ = _by_component(share_nMJ) * away_nMACJ
        first_MACJ = weighted_nMACJ.sum(0)
        return first_MACJ.mT, _times(weighted_nMACJ, away_nMACJ).sum(0).mT

    @staticmethod
    def quick(
        share_nMJ: torch.Tensor,
        vote_nMAJC: torch.Tensor,
        center_MAJC: torch.Tensor,
        for_first_MAJC: torch.Tensor,
        for_second_MAJC: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        away_nMACJ = vote_nMAJC.mT - center_MAJC.mT
        pull_nMACJ = torch.addcmul(for_first_MAJC.mT, away_nMACJ, for_second_MAJC.mT)
        for_share_nMJ = (pull_nMACJ * away_nMACJ).sum((2, 3))
        pull_nMACJ.addcmul_(away_nMACJ, for_second_MAJC.mT).mul_(_by_component(share_nMJ))
        return for_share_nMJ, pull_nMACJ.mT, pull_nMACJ.sum(0).neg_().mT


class _Distance(_Sums):
    @staticmethod
    def plain(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor_MAJC: torch.Tensor) -> torch.Tensor:
        away_nMACJ = vote_nMAJC.mT - mean_MAJC.mT
        return _times(_times(away_nMACJ, away_nMACJ), factor_MAJC.mT).sum((2, 3))

    @staticmethod
    def quick(
        vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor_MAJC: torch.Tensor, gradient_nMJ: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        away_nMACJ = vote_nMAJC.mT - mean_MAJC.mT
        pull_nMACJ = away_nMACJ * _by_component(gradient_nMJ)
        for_factor_MACJ = (pull_nMACJ * away_nMACJ).sum(0)
        pull_nMACJ.mul_(2 * factor_MAJC.mT)
        return pull_nMACJ.mT, pull_nMACJ.sum(0).neg_().mT, for_factor_MACJ.mT


def _by_component(share_nMJ: torch.Tensor) -> torch.Tensor:
    return share_nMJ[:, :, None, None]


def _times(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Multiply, in place where no gradient needs the factors."""
    return tensor * other if torch.is_grad_enabled() or is_traced() else tensor.mul_(other)


def _not_summed(vote_nMAJC: torch.Tensor) -> torch.Tensor:
    return torch.full_like(vote_nMAJC.mT[0], torch.nan).mT
