"""Squash: a capsule keeps its direction and gets a length below 1.

Shape suffixes: B batch, N capsule types, D capsule dimension, P positions (H * W).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.precision import as_floats, widen
from encapkeras.torch_internals import is_tracing

SquashVariant = Literal["paper", "exponential", "sigmoid"]
EpsilonPlace = Literal["root", "length", "square"]


class SquashOptions(NamedTuple):
    """The squash inside of a routing: the arguments of `squash` but its axis, with their meaning and defaults."""

    variant: SquashVariant = "paper"
    epsilon: float = 0.0
    epsilon_in: EpsilonPlace = "root"
    offset: float = 0.0


@compilable
def squash(
    capsules: torch.Tensor,
    *,
    variant: SquashVariant = "paper",
    dim: int | tuple[int, ...] = -1,
    epsilon: float = 0.0,
    epsilon_in: EpsilonPlace = "root",
    offset: float = 0.0,
) -> torch.Tensor:
    """Shorten capsules to lengths below 1, in their shape; the zero vector stays, but for an offset.

    `paper`: `|s|^2 / (1 + |s|^2) * s / |s|` (Sabour et al. 2017, equation 1). `exponential`: `(1 - exp(-|s|)) * s /
    |s|` (Mazzia et al. 2021, arXiv:2101.12491), which leaves short capsules as they are: its gradient at the zero
    vector is the identity, those of the others are 0 there. `sigmoid`: `sigmoid(|s| - m) * s / |s|` with `m = (max |s|
    - min |s|) / 2` over the whole tensor, gradients flowing through m.

    Args:
        capsules: Tensor of any shape; half precision is computed in float32, whole numbers become float32. Squares of
            lengths must not overflow: lengths up to 1e19 in float32.
        variant: `paper`, `exponential` or `sigmoid`.
        dim: The axis of the capsule's components; several axes for a length over all of them.
        epsilon: Of `paper`, in several authors' code: a number in the divisor. With place `root`, s is divided by
            `sqrt(|s|^2 + epsilon)`; with `length`, by `|s| + epsilon`; with `square`, `|s|^2 + epsilon` takes the place
            of each `|s|^2`.
        epsilon_in: `root`, `length` or `square`.
        offset: Added to each component at the end.

    Raises:
        ValueError: An unknown variant or place, or an epsilon with another variant than `paper`.

    Examples:
        >>> squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.5769, 0.7692],
                [0.0000, 0.0000]])
        >>> squash(torch.tensor([0.03, 0.04]), variant="exponential")
        tensor([0.0293, 0.0390])
    """
    capsules = as_floats(capsules)
    if epsilon and variant != "paper":
        raise ValueError(f"epsilon belongs to variant 'paper'; received epsilon={epsilon} with variant {variant!r}")
    if offset:
        options = SquashOptions(variant, epsilon, epsilon_in)
        return squash(capsules, dim=dim, **options._asdict()) + offset
    if variant == "paper" and epsilon:
        with_epsilon = _SquashWithEpsilon.forward if is_tracing() else _SquashWithEpsilon.apply
        return with_epsilon(capsules, dim, epsilon, epsilon_in)
    if variant == "paper":
        if is_tracing():  # ONNX would take the batch behind a function of one's own for fixed
            return _Squash.forward(capsules, dim)
        return _Squash.apply(capsules, dim)  # type: ignore[no-any-return]
    if variant == "sigmoid":
        return _squash_sigmoid(capsules, dim)
    if variant == "exponential":
        return _squash_exponential(capsules, dim)
    raise ValueError(f"variant must be 'paper', 'exponential' or 'sigmoid'; received {variant!r}")


def _dot(left: torch.Tensor, right: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    return (left * right).sum(dim, keepdim=True)


def _paper_factor(square: torch.Tensor) -> torch.Tensor:
    """`|s| / (1 + |s|^2)`, from `|s|^2`; written so that 0 gives 0 and nothing overflows before the square does."""
    inverse = square.rsqrt()
    return (inverse + inverse.reciprocal()).reciprocal()


class _Squash(torch.autograd.Function):
    """Analytic backward: the composed one is NaN at zero and takes several times the memory traffic."""

    generate_vmap_rule = True

    @staticmethod
    def forward(capsules: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
        wide = widen(capsules)
        return (wide * _paper_factor(_dot(wide, wide, dim))).to(capsules.dtype)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[torch.Tensor, Any], output: torch.Tensor) -> None:
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


class _SquashWithEpsilon(torch.autograd.Function):
    """As `_Squash`: nothing is kept but the capsules."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        capsules: torch.Tensor, dim: int | tuple[int, ...], epsilon: float, place: EpsilonPlace
    ) -> torch.Tensor:
        wide = widen(capsules)
        return (wide * _factor(_dot(wide, wide, dim), epsilon, place)[0]).to(capsules.dtype)

    @staticmethod
    def setup_context(
        context: Any, inputs: tuple[torch.Tensor, Any, float, EpsilonPlace], output: torch.Tensor
    ) -> None:
        capsules, *context.options = inputs
        context.save_for_backward(capsules)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """`f g + 2 (df / d|s|^2) (s . g) s`; differentiable itself."""
        (capsules,) = context.saved_tensors
        dim, epsilon, place = context.options
        wide, gradient = widen(capsules), widen(gradients[0])
        factor, slope = _factor(_dot(wide, wide, dim), epsilon, place)
        slope = slope * _dot(wide, gradient, dim)
        return torch.addcmul(gradient * factor, wide, slope).to(capsules.dtype), None, None, None


def _factor(square: torch.Tensor, epsilon: float, place: EpsilonPlace) -> tuple[torch.Tensor, torch.Tensor]:
    """What capsules are multiplied by, and twice its slope in `|s|^2`."""
    if place == "root":
        rest = square + epsilon
        divisor, fall = rest.sqrt(), square / rest
    elif place == "length":
        is_zero = square == 0  # where the gradient of the root would be infinite
        length = torch.where(is_zero, 0, torch.where(is_zero, 1, square).sqrt())
        divisor = length + epsilon
        fall = length / divisor
    elif place == "square":
        square = square + epsilon
        divisor, fall = square.sqrt(), torch.ones_like(square)
    else:
        raise ValueError(f"epsilon_in must be 'root', 'length' or 'square'; received {place!r}")
    above = 1 + square
    return square / above / divisor, (2 / above - fall) / above / divisor  # products of both could overflow


def _squash_sigmoid(capsules: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
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


def _squash_exponential(capsules: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    wide = widen(capsules)
    square = _dot(wide, wide, dim)
    is_zero = square == 0
    length = torch.where(is_zero, 1, square).sqrt()
    factor = torch.where(is_zero, 1, -torch.expm1(-length) / length)  # exp(length) would overflow
    return (wide * factor).to(capsules.dtype)
