"""Checks of what a routing takes: sizes that do not match are named with the tensors that have them.

Shape suffixes: B batch, P positions, H W map of the children, N capsule types, D capsule dimension, J output capsules,
E their dimension.
"""

from __future__ import annotations

import math
import numbers
from typing import Literal

import torch

from encapkeras.errors import ArgumentError, ShapeError

Competition = Literal["position", "child"]
"""Which parents in windows compete for a child: those of one position, or all that the child feeds."""


def check_routing(
    capsules_BPND: torch.Tensor, weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None, iterations: int
) -> None:
    """Check what all routings take."""
    check_iterations(iterations)
    for name, tensor in (("capsules", capsules_BPND), ("weight", weight_NJED)):
        if not tensor.is_floating_point():
            raise ArgumentError(f"{name} must be of a floating type; received {tensor.dtype}")
    capsules, weight = tuple(capsules_BPND.shape), tuple(weight_NJED.shape)
    if len(capsules) != 4 or 0 in capsules[1:]:
        raise ShapeError(f"capsules must be (batch, positions, types, dim), none but the batch 0; received {capsules}")
    if len(weight) != 4 or 0 in weight:
        raise ShapeError(f"weight must be (types, outputs, output dim, input dim), none of them 0; received {weight}")
    if (weight[0], weight[3]) != capsules[2:]:
        raise ShapeError(
            f"weight {weight} takes {weight[0]} types of dimension {weight[3]}, but capsules {capsules} are "
            f"{capsules[2]} types of dimension {capsules[3]}"
        )
    if bias_NJE is not None and tuple(bias_NJE.shape) != weight[:3]:
        raise ShapeError(f"bias must be {weight[:3]}, as weight is {weight}; received {tuple(bias_NJE.shape)}")


def check_output_bias(bias_JE: torch.Tensor | None, weight_NJED: torch.Tensor) -> None:
    """Check that a bias of the outputs has one number for each component of each."""
    expected = tuple(weight_NJED.shape[1:3])
    if bias_JE is not None and tuple(bias_JE.shape) != expected:
        raise ShapeError(
            f"output_bias must be (outputs, output dim) = {expected}, as weight is {tuple(weight_NJED.shape)}; "
            f"received {tuple(bias_JE.shape)}"
        )


def check_window_bias(bias_JE: torch.Tensor | None, expected: tuple[int, int]) -> None:
    """Check that a bias of a window's parents has one number for each component of each type."""
    if bias_JE is not None and tuple(bias_JE.shape) != expected:
        raise ShapeError(f"output_bias must be (outputs, output dim) = {expected}; received {tuple(bias_JE.shape)}")


def check_em(
    capsules_BPND: torch.Tensor,
    weight_NJED: torch.Tensor,
    activations_BPN: torch.Tensor | None,
    betas: dict[str, torch.Tensor],
    density_floor: float,
) -> None:
    """Check the additional inputs of EM routing."""
    expected = tuple(capsules_BPND.shape[:3])
    if activations_BPN is not None and tuple(activations_BPN.shape) != expected:
        raise ShapeError(
            f"activations must be (batch, positions, types) = {expected}, as capsules are "
            f"{tuple(capsules_BPND.shape)}; received {tuple(activations_BPN.shape)}"
        )
    for name, beta in betas.items():
        if tuple(beta.shape) != (weight_NJED.shape[1],):
            raise ShapeError(
                f"{name} must be ({weight_NJED.shape[1]},), one number for each output capsule of weight "
                f"{tuple(weight_NJED.shape)}; received {tuple(beta.shape)}"
            )
    if not 0 <= density_floor < math.inf:
        raise ArgumentError(f"density_floor must be a finite number of at least 0; received {density_floor!r}")


def check_iterations(iterations: int) -> None:
    """Check the number of iterations."""
    if isinstance(iterations, bool) or not isinstance(iterations, numbers.Integral) or iterations < 1:
        raise ArgumentError(f"iterations must be a whole number of at least 1; received {iterations!r}")


def check_map(capsules_BHWND: torch.Tensor) -> None:
    """Check that capsules are a map."""
    shape = tuple(capsules_BHWND.shape)
    if len(shape) != 5 or 0 in shape[1:]:
        raise ShapeError(f"capsules must be (batch, height, width, types, dim), none but the batch 0; received {shape}")


def check_activations(activations_BHWN: torch.Tensor, capsules_BHWND: torch.Tensor) -> None:
    """Check that there is one activation for each capsule of a map."""
    expected = tuple(capsules_BHWND.shape[:-1])
    if tuple(activations_BHWN.shape) != expected:
        raise ShapeError(
            f"activations must be (batch, height, width, types) = {expected}, as capsules are "
            f"{tuple(capsules_BHWND.shape)}; received {tuple(activations_BHWN.shape)}"
        )


def check_sequence(sequence_BLD: torch.Tensor) -> None:
    """Check that there is at least one step in each sequence."""
    shape = tuple(sequence_BLD.shape)
    if len(shape) != 3 or 0 in shape[1:]:
        raise ShapeError(f"sequence must be (batch, steps, dim), none but the batch 0; received {shape}")


def check_step_mask(mask_BL: torch.Tensor | None, sequence_BLD: torch.Tensor) -> None:
    """Check that there is one entry of the mask for each step."""
    expected = tuple(sequence_BLD.shape[:2])
    if mask_BL is not None and tuple(mask_BL.shape) != expected:
        raise ShapeError(
            f"mask must be (batch, steps) = {expected}, as the sequence is {tuple(sequence_BLD.shape)}; received "
            f"{tuple(mask_BL.shape)}"
        )


def check_capsule_mask(mask_BPN: torch.Tensor | None, capsules_BPND: torch.Tensor) -> None:
    """Check that there is one entry of the mask for each capsule."""
    expected = tuple(capsules_BPND.shape[:3])
    if mask_BPN is not None and tuple(mask_BPN.shape) != expected:
        raise ShapeError(
            f"mask must be (batch, positions, types) = {expected}, as capsules are {tuple(capsules_BPND.shape)}; "
            f"received {tuple(mask_BPN.shape)}"
        )


def check_competition(competition: str, *, by_position: bool = False) -> None:
    """Check which parents compete for a child; if each position has its own matrices, those of one position alone."""
    if competition not in ("position", "child"):
        raise ArgumentError(f"competition must be 'position' or 'child'; received {competition!r}")
    if by_position and competition == "child":
        raise ArgumentError(
            "competition must be 'position' where weight has matrices for each position, as the positions are routed "
            f"one by one; received {competition!r}. Share the matrices by offset or by type, or let parents compete by "
            "position"
        )


def check_coefficients(coefficients: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Check that there is one fixed coefficient for each matrix of votes."""
    if tuple(coefficients.shape) != shape:
        axes = "types, outputs" if len(shape) == 2 else "window height, window width, types, outputs"
        raise ShapeError(f"coefficients must be ({axes}) = {shape}; received {tuple(coefficients.shape)}")
