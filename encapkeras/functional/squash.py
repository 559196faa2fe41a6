"""Squash: a capsule keeps its direction and gets a length below 1.

Shape suffixes: B batch, N capsule types, D capsule dimension, P positions (H * W).
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.precision import as_floats, widen
from encapkeras.torch_internals import is_tracing

SquashVariant = Literal["paper", "sigmoid"]


@compilable
def squash(
    capsules: torch.Tensor, *, variant: SquashVariant = "paper", dim: int = -1, epsilon: float = 0.0
) -> torch.Tensor:
    """Shorten capsules to lengths below 1, in their shape; value and gradient at the zero vector are 0.

    `paper`: `|s|^2 / (1 + |s|^2) * s / |s|` (Sabour et al. 2017, equation 1). `sigmoid`: `sigmoid(|s| - m) * s / |s|`
    with `m = (max |s| - min |s|) / 2` over the whole tensor, gradients flowing through m.

    Args:
        capsules: Tensor of any shape; half precision is computed in float32, whole numbers become float32. Squares of
            lengths must not overflow: lengths up to 1e19 in float32.
        variant: `paper` or `sigmoid`.
        dim: The axis of the capsule's components.
        epsilon: Of `paper`, added below the root: `|s|^2 / (1 + |s|^2) * s / sqrt(|s|^2 + epsilon)`.

    Raises:
        ValueError: An unknown variant.

    Examples:
        >>> squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.5769, 0.7692],
                [0.0000, 0.0000]])
    """
    capsules = as_floats(capsules)
    if variant == "paper":
        if epsilon:
            return _squash_with_epsilon(capsules, dim, epsilon)
        if is_tracing():  # ONNX would take the batch behind a function of one's own for fixed
            return _Squash.forward(capsules, dim)
        return _Squash.apply(capsules, dim)  # type: ignore[no-any-return]
    if variant == "sigmoid":
        return _squash_sigmoid(capsules, dim)
    raise ValueError(f"variant must be 'paper' or 'sigmoid'; received {variant!r}")


def _dot(left: torch.Tensor, right: torch.Tensor, dim: int) -> torch.Tensor:
    return (left * right).sum(dim, keepdim=True)


def _paper_factor(square: torch.Tensor) -> torch.Tensor:
    """`|s| / (1 + |s|^2)`, from `|s|^2`; written so that 0 gives 0 and nothing overflows before the square does."""
    inverse = square.rsqrt()
    return (inverse + inverse.reciprocal()).reciprocal()


class _Squash(torch.autograd.Function):
    """Analytic backward: the composed one is NaN at zero and takes several times the memory traffic."""

    generate_vmap_rule = True

    @staticmethod
    def forward(capsules: torch.Tensor, dim: int) -> torch.Tensor:
        wide = widen(capsules)
        return (wide * _paper_factor(_dot(wide, wide, dim))).to(capsules.dtype)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[torch.Tensor, int], output: torch.Tensor) -> None:
        capsules, context.dim = inputs
        context.save_for_backward(capsules)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """`f g + (f' / |s|) (s . g) s`, with `f = |s| / (1 + |s|^2)`; differentiable itself."""
        (capsules,) = context.saved_tensors
        dim = context.dim
        wide, gradient = widen(capsules), widen(gradients[0])
        if wide.is_contiguous():
            gradient = gradient.contiguous()  # mixed layouts would make every pass below a strided one
        square = _dot(wide, wide, dim)
        length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
        above = square + 1
        denominator = length * above
        slope = _dot(wide, gradient, dim) * (1 - square) / (denominator * above)
        return torch.addcmul(gradient * (square / denominator), wide, slope).to(capsules.dtype), None


def _squash_with_epsilon(capsules: torch.Tensor, dim: int, epsilon: float) -> torch.Tensor:
    wide = widen(capsules)
    square = _dot(wide, wide, dim)
    return (wide * (square / (1 + square) * (square + epsilon).rsqrt())).to(capsules.dtype)


def _squash_sigmoid(capsules: torch.Tensor, dim: int) -> torch.Tensor:
    if has_values(capsules) and not capsules.numel():
        return capsules
    wide = widen(capsules)
    square = _dot(wide, wide, dim)
    is_zero = square == 0
    # The zero vector has no direction: replacing its length before the root keeps 0 / 0 out of value and gradient.
    length = torch.where(is_zero, 1, square).sqrt()
    true_length = torch.where(is_zero, 0, length)
    half_range = (true_length.amax() - true_length.amin()) / 2
    factor = torch.where(is_zero, 0, torch.sigmoid(true_length - half_range) / length)
    return (wide * factor).to(capsules.dtype)
