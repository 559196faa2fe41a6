"""For functions whose backward pass has no derivative of its own: a second derivative is refused, not wrong."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.errors import ArgumentError


def refuse_twice() -> None:
    """To be called in a backward pass.

    Raises:
        ArgumentError: The backward pass is itself to be differentiated (`create_graph=True`).
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise ArgumentError("optimal transport can be differentiated once; create_graph=True asks for more")


def differentiated_once(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; a second derivative through it is refused.

    Args:
        tensor: Any tensor.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> torch.autograd.grad(differentiated_once(x * x).sum(), x)
        (tensor([2., 2.]),)
    """
    return _Once.apply(tensor)  # type: ignore[no-any-return]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        refuse_twice()
        return gradients[0]
