"""Functions whose backward pass has no derivative: a second derivative is refused instead of wrong."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.errors import ArgumentError


def refuse_second_derivative() -> None:
    """Raise if the backward pass that calls this is itself to be differentiated (`create_graph=True`)."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise ArgumentError("optimal transport can be differentiated once; create_graph=True requires more")


def differentiable_once(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor; a second derivative through it is refused."""
    return _Once.apply(tensor)  # type: ignore[no-any-return]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        refuse_second_derivative()
        return gradients[0]
