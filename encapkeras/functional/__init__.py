"""The mathematics: pure functions on torch tensors, without Keras."""

from encapkeras.functional.batch_norm import NormWeights, batch_norm, capsule_batch_norm
from encapkeras.functional.capsule_convolution import (
    ApproximateWeights,
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    StageOutputs,
    StepWeights,
    capsule_block,
    capsule_stage,
)
from encapkeras.functional.squash import squash

__all__ = [
    "ApproximateWeights",
    "BlockOptions",
    "BlockWeights",
    "ConvolutionWeights",
    "NormWeights",
    "StageOutputs",
    "StepWeights",
    "batch_norm",
    "capsule_batch_norm",
    "capsule_block",
    "capsule_stage",
    "squash",
]
