"""What capsule convolutions are given: the weights of steps and blocks, and the options of blocks.

Shape suffixes: N capsule types, D capsule dimension in, E out, K kernel size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from encapkeras.functional.batch_norm import NormWeights

Coefficients = Literal["cross", "own"]
Skip = Literal["none", "last", "every"]
Normalization = Literal["channel", "capsule"]


class ConvolutionWeights(NamedTuple):
    """Weights of a convolution, in torch's layout.

    Attributes:
        kernel: `(out, in / groups, K, K)`.
        bias: `(out,)`.
    """

    kernel: torch.Tensor
    bias: torch.Tensor


class ApproximateWeights(NamedTuple):
    """Weights of one approximate routing.

    Attributes:
        master: The grouped convolutions, one per kernel size: kernels `(N * E, D, K, K)`.
        master_norm: Batch norm of the master branch, `(N * E,)`.
        aide: The ungrouped convolution, kernel `(N * E, N * D, K + 4, K + 4)`.
        aide_norm: Batch norm of the aide branch, `(N * E,)`.
        master_coefficient: Grouped convolution `(N, E, 3, 3)` that makes coefficients of the master branch.
        aide_coefficient: The same of the aide branch.
    """

    master: tuple[ConvolutionWeights, ...]
    master_norm: NormWeights
    aide: ConvolutionWeights
    aide_norm: NormWeights
    master_coefficient: ConvolutionWeights
    aide_coefficient: ConvolutionWeights


class StepWeights(NamedTuple):
    """Weights of one step: convolution, batch norm, ReLU, squash.

    Attributes:
        routing: The grouped convolutions of a master step, one per kernel size, or an approximate routing's weights.
        norm: The step's own batch norm: `(N * E,)`, or `(N,)` for one statistic per capsule type.
    """

    routing: tuple[ConvolutionWeights, ...] | ApproximateWeights
    norm: NormWeights


class BlockWeights(NamedTuple):
    """Weights of a block of steps.

    Attributes:
        steps: One entry per step.
        projection: The ungrouped 3x3 convolution that fits the skip to a changed shape, or None.
    """

    steps: tuple[StepWeights, ...]
    projection: ConvolutionWeights | None


class BlockOptions(NamedTuple):
    """Options of a block.

    Attributes:
        types: Number N of capsule types.
        strides: Stride of the first step and of the projection.
        skip: Where the input is added: never, the block's at the last step, or each step's own.
        coefficients: `cross`: each approximate branch is weighted by the other's coefficients; `own`: by its own.
        normalization: One statistic per channel, or per capsule type.
        relu: Whether each step applies ReLU before squash.
    """

    types: int
    strides: int = 1
    skip: Skip = "none"
    coefficients: Coefficients = "cross"
    normalization: Normalization = "channel"
    relu: bool = True


class StepOptions(NamedTuple):
    """Options of steps that each capsule type takes by itself.

    Attributes:
        types: Number N of capsule types.
        relu: Whether there is a ReLU before each squash.
        by_type: One statistic per capsule type, not per channel; scale and offset are equal within a type.
        epsilon: Added to variances.
        given: Whether scale and offset are slope and shift, so that no statistics are made.
        skip: Whether the last step adds what the first matrix is applied to.
        taps: Numbers of the steps, but for the last, whose outputs are returned too, contiguous.
        memory_format: Of the output.
    """

    types: int
    relu: bool = True
    by_type: bool = False
    epsilon: float = 1e-5
    given: bool = False
    skip: bool = False
    taps: tuple[int, ...] = ()
    memory_format: torch.memory_format = torch.contiguous_format
