"""Capsule convolution: steps, blocks and stages (Neural Network Encapsulation, section 3).

Shape suffixes: B batch, H height, W width, N capsule types, D capsule dimension in, E out, C = N * D channels,
P = H * W positions, K kernel size. Inside, maps are `(B, C, H, W)`; the views between are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.functional.batch_norm import (
    NormWeights,
    batch_norm,
    capsule_batch_norm,
    moving_affine,
    record_statistics,
)
from encapkeras.functional.batch_norm_relu_squash import affine_relu_squash, batch_norm_relu_squash, is_worthwhile
from encapkeras.functional.block_weights import (
    ApproximateWeights,
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    StepOptions,
    StepWeights,
)
from encapkeras.functional.mix_types import mix_types
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.functional.type_steps import dense, runs_type_steps, type_steps


class StageOutputs(NamedTuple):
    """Outputs of a stage, each `(B, H, W, N, D)`: of the main block, the sub block's middle, and the sub block."""

    main: torch.Tensor
    half: torch.Tensor | None
    out: torch.Tensor


def capsule_block(
    capsules_BHWND: torch.Tensor, weights: BlockWeights, options: BlockOptions, *, training: bool
) -> torch.Tensor:
    """Apply a block of capsule convolution steps: each convolves, adds the skip, then batch norm, ReLU and squash.

    A master step convolves every capsule type by itself. An approximate step weights a master and an ungrouped aide
    branch by coefficients made from the branches: `master * c(aide) + aide * c(master)` for `cross`,
    `master * c(master) + aide * c(aide)` for `own`. Padding is K // 2 on all sides, at every stride.

    Args:
        capsules_BHWND: Capsules `(B, H, W, N, D)`.
        weights: See `BlockWeights`.
        options: See `BlockOptions`.
        training: Whether batch norms use and record the batch's statistics.

    Returns:
        Capsules `(B, H', W', N, E)`, with `H' = ceil(H / strides)`.

    Examples:
        >>> norm = NormWeights(torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8))
        >>> step = StepWeights((ConvolutionWeights(torch.rand(8, 2, 3, 3), torch.zeros(8)),), norm)
        >>> block = BlockWeights((step,), None)
        >>> capsule_block(torch.rand(5, 6, 6, 4, 2), block, BlockOptions(types=4, strides=2), training=True).shape
        torch.Size([5, 3, 3, 4, 2])
    """
    out_BCHW, _ = _block(_as_map(capsules_BHWND), weights, options, training)
    return _as_capsules(out_BCHW, options.types)


def capsule_stage(
    capsules_BHWND: torch.Tensor,
    main: BlockWeights,
    sub: BlockWeights,
    main_options: BlockOptions,
    sub_options: BlockOptions,
    *,
    training: bool,
    half: bool = True,
) -> StageOutputs:
    """Apply two blocks: `main`, one step that changes the capsules' dimension, and `sub`, steps that keep it.

    Args:
        capsules_BHWND: Capsules `(B, H, W, N, D)`.
        main: Weights of the main block.
        sub: Weights of the sub block.
        main_options: Options of the main block.
        sub_options: Options of the sub block.
        training: Whether batch norms use and record the batch's statistics.
        half: Whether to return the middle of the sub block; without it an odd number of steps is a little faster.

    Returns:
        The outputs of the main block, of the first half of the sub block's steps (for an odd number: the middle step
        after ReLU, before squash), and of the sub block.
    """
    types = main_options.types
    map_BCHW, step = _as_map(capsules_BHWND), main.steps[0]
    skipped = None if main_options.skip == "none" else map_BCHW
    strides = main_options.strides
    before_BCHW, bias = _convolve(map_BCHW, step, main_options, strides, skipped, main.projection, training)
    if _run_together(before_BCHW, sub, sub_options, half, training):
        norms = (step.norm, *(each.norm for each in sub.steps))
        taps = (0, len(sub.steps) // 2) if half else (0,)
        out_BCHW, main_BCHW, *halves = _steps_together(before_BCHW, bias, norms, sub, sub_options, taps, training)
        half_BCHW = halves[0] if half else None
    else:
        # The sub block multiplies small matrices along H * W; what comes after the stage is mostly a convolution.
        main_BCHW = _normalize_and_squash(before_BCHW, bias, step.norm, main_options, training)
        out_BCHW, half_BCHW = _block(main_BCHW, sub, sub_options, training, want_half=half)
    half_BHWND = None if half_BCHW is None else _as_capsules(half_BCHW, types)
    return StageOutputs(_as_capsules(main_BCHW, types), half_BHWND, _as_capsules(out_BCHW, types))


def _as_map(capsules_BHWND: torch.Tensor) -> torch.Tensor:
    return capsules_BHWND.flatten(3).permute(0, 3, 1, 2)


def _as_capsules(map_BCHW: torch.Tensor, types: int) -> torch.Tensor:
    capsules_BHWND: torch.Tensor = map_BCHW.permute(0, 2, 3, 1).unflatten(3, (types, -1))
    return capsules_BHWND


def _block(
    map_BCHW: torch.Tensor,
    weights: BlockWeights,
    options: BlockOptions,
    training: bool,
    *,
    want_half: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the block's output, preferably channels_last, and the value in its middle if wanted."""
    block_input = map_BCHW
    count = len(weights.steps)
    if not want_half and _run_together(map_BCHW, weights, options, False, training):
        norms = [step.norm for step in weights.steps]
        return _steps_together(map_BCHW, None, norms, weights, options, (), training)[0], None
    half = None
    for number, step in enumerate(weights.steps, start=1):
        skipped = None
        if options.skip == "every" or (options.skip == "last" and number == count):
            skipped = block_input if options.skip == "last" else map_BCHW
        # Only the first step changes the shape, so that only the block's input can need the projection.
        projection = weights.projection if skipped is block_input else None
        strides = options.strides if number == 1 else 1
        map_BCHW, bias = _convolve(map_BCHW, step, options, strides, skipped, projection, training)
        is_middle = want_half and number == (count + 1) // 2
        if is_middle and count % 2:
            half = _normalize(map_BCHW, bias, step.norm, options, training)
            map_BCHW = _squash_types(half, options.types)
        else:
            after = torch.channels_last if number == count else torch.contiguous_format
            map_BCHW = _normalize_and_squash(map_BCHW, bias, step.norm, options, training, after)
            half = map_BCHW if is_middle else half
    return map_BCHW, half


def _run_together(
    map_BCHW: torch.Tensor, weights: BlockWeights, options: BlockOptions, half: bool, training: bool
) -> bool:
    """Return whether a kernel can take all steps of a block at once: each type by itself, with one matrix a step."""
    values = map_BCHW.numel() // map_BCHW.shape[1]
    splits = half and len(weights.steps) % 2 == 1  # the middle is before a squash
    own = not splits and options.strides == 1 and options.normalization == "channel" and weights.projection is None
    return (
        own
        and all(
            not isinstance(step.routing, ApproximateWeights)
            and all(each.kernel.shape[-1] == 1 and len(each.kernel) == map_BCHW.shape[1] for each in step.routing)
            for step in weights.steps
        )
        and not (training and values == 1)
        and is_worthwhile(map_BCHW, training=training)
        and runs_type_steps(map_BCHW, options.types)
    )


def _steps_together(
    map_BCHW: torch.Tensor,
    first_bias: torch.Tensor | None,
    norms: Sequence[NormWeights],
    weights: BlockWeights,
    options: BlockOptions,
    taps: tuple[int, ...],
    training: bool,
) -> Sequence[torch.Tensor]:
    """Return the output of a block, channels_last, and those of some steps; one more norm than steps comes first."""
    sums = [_sum(step.routing) for step in weights.steps]  # type: ignore[arg-type]
    biases = [first_bias, *(each.bias for each in sums)][-len(norms) :]
    matrix_SNED = torch.stack([each.kernel.view(options.types, -1, each.kernel.shape[1]) for each in sums])
    if options.skip == "every":
        matrix_SNED = matrix_SNED + torch.eye(matrix_SNED.shape[-1], dtype=matrix_SNED.dtype)
    if training:
        # The gradients of biases are 0, as in batch_norm.
        affine = [
            (norm.scale, norm.offset if bias is None else norm.offset + 0 * bias)
            for norm, bias in zip(norms, biases, strict=True)
        ]
    else:
        affine = [moving_affine(norm, bias) for norm, bias in zip(norms, biases, strict=True)]
    step_options = StepOptions(
        options.types,
        options.relu,
        given=not training,
        skip=options.skip == "last",
        taps=taps,
        memory_format=torch.channels_last,
    )
    scale_SC, offset_SC = (torch.stack(vectors) for vectors in zip(*affine, strict=True))
    mean_SC, variance_SC, *outputs = type_steps(dense(map_BCHW), matrix_SNED, scale_SC, offset_SC, step_options)
    if training:
        values = map_BCHW.numel() // map_BCHW.shape[1]
        for norm, bias, mean, variance in zip(norms, biases, mean_SC, variance_SC, strict=True):
            record_statistics(norm, mean, variance, values=values, bias=bias)
    return outputs


def _convolve(
    map_BCHW: torch.Tensor,
    step: StepWeights,
    options: BlockOptions,
    strides: int,
    skipped: torch.Tensor | None,
    projection: ConvolutionWeights | None,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return convolution and skip of one step, without the bias, and the bias."""
    if isinstance(step.routing, ApproximateWeights):
        out_BCHW, bias = _convolve_approximate(map_BCHW, step.routing, options, strides, training), None
    elif projection is not None and skipped is map_BCHW:
        return _convolve_master_with_projection(map_BCHW, step.routing, projection, options.types, strides)
    elif projection is None:
        return _convolve_master(map_BCHW, step.routing, options.types, strides, skipped)
    else:
        out_BCHW, bias = _convolve_master(map_BCHW, step.routing, options.types, strides)
    if skipped is not None and projection is not None:
        skipped = F.conv2d(_channels_last(skipped), *projection, stride=options.strides, padding=1)
    return (out_BCHW if skipped is None else out_BCHW.add_(skipped)), bias


def _normalize_and_squash(
    map_BCHW: torch.Tensor,
    bias: torch.Tensor | None,
    norm: NormWeights,
    options: BlockOptions,
    training: bool,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    by_type = options.normalization == "capsule"
    values = map_BCHW.numel() // len(norm.scale)
    if not is_worthwhile(map_BCHW, training=training) or (training and values == 1):
        return _squash_types(_normalize(map_BCHW, bias, norm, options, training), options.types)
    if by_type and bias is not None:
        map_BCHW, bias = map_BCHW + bias.view(-1, 1, 1), None
    if training:
        offset = norm.offset if bias is None else norm.offset + 0 * bias  # its gradient is 0, as in batch_norm
        out_BCHW, mean, variance = batch_norm_relu_squash(
            map_BCHW, norm.scale, offset, options.types, relu=options.relu, memory_format=layout
        )
        record_statistics(norm, mean, variance, values=values, bias=bias)
        return out_BCHW
    slope, shift = moving_affine(norm, bias)
    if by_type:
        slope, shift = (vector.repeat_interleave(map_BCHW.shape[1] // options.types) for vector in (slope, shift))
    return affine_relu_squash(map_BCHW, slope, shift, options.types, relu=options.relu, memory_format=layout)


def _normalize(
    map_BCHW: torch.Tensor, bias: torch.Tensor | None, norm: NormWeights, options: BlockOptions, training: bool
) -> torch.Tensor:
    # Batch norm and squash run along H * W: with so few components a capsule, channels_last is several times slower.
    map_BCHW = map_BCHW.contiguous()
    if options.normalization == "capsule":
        if bias is not None:
            map_BCHW = map_BCHW + bias.view(-1, 1, 1)
        capsules_BNDHW = capsule_batch_norm(map_BCHW.unflatten(1, (options.types, -1)), norm, training=training)
        map_BCHW = capsules_BNDHW.flatten(1, 2)
    else:
        map_BCHW = batch_norm(map_BCHW, norm, bias=bias, training=training)
    return F.relu(map_BCHW, inplace=True) if options.relu else map_BCHW


def _squash_types(map_BCHW: torch.Tensor, types: int) -> torch.Tensor:
    capsules_BNDP = squash(map_BCHW.unflatten(1, (types, -1)).flatten(3), dim=2)
    # Not the map's shape as a whole: in ONNX it may have become that of the batch that was exported with.
    squashed_BCHW: torch.Tensor = capsules_BNDP.flatten(1, 2).unflatten(2, map_BCHW.shape[2:])
    return squashed_BCHW


def _channels_last(map_BCHW: torch.Tensor) -> torch.Tensor:
    return map_BCHW.contiguous(memory_format=torch.channels_last)


def _pad(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Pad the kernel with zeros: the same convolution at padding size // 2."""
    border = (size - kernel.shape[-1]) // 2
    return F.pad(kernel, (border,) * 4) if border else kernel


def _sum(convolutions: Sequence[ConvolutionWeights]) -> ConvolutionWeights:
    size = max(convolution.kernel.shape[-1] for convolution in convolutions)
    kernel, bias = _pad(convolutions[0].kernel, size), convolutions[0].bias
    for convolution in convolutions[1:]:
        kernel, bias = kernel + _pad(convolution.kernel, size), bias + convolution.bias
    return ConvolutionWeights(kernel, bias)


def _convolve_master(
    map_BCHW: torch.Tensor,
    convolutions: Sequence[ConvolutionWeights],
    types: int,
    strides: int,
    skipped: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the master convolution and a skip, without the bias, and the bias."""
    kernel, bias = _sum(convolutions)
    size = kernel.shape[-1]
    if size == 1 and strides == 1:
        return mix_types(map_BCHW, kernel.view(types, -1, kernel.shape[1]), skipped), bias
    out_BCHW = F.conv2d(_channels_last(map_BCHW), kernel, None, strides, size // 2, groups=types)
    return (out_BCHW if skipped is None else out_BCHW.add_(skipped)), bias


def _convolve_master_with_projection(
    map_BCHW: torch.Tensor,
    convolutions: Sequence[ConvolutionWeights],
    projection: ConvolutionWeights,
    types: int,
    strides: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Master convolution plus projected skip of the same input, without bias, and the bias."""
    small = [convolution for convolution in convolutions if convolution.kernel.shape[-1] <= 3]
    large = [convolution for convolution in convolutions if convolution.kernel.shape[-1] > 3]
    kernel, bias = projection
    if small:  # linear in the same input: added into the projection's diagonal blocks, they cost nothing
        grouped, grouped_bias = _sum(small)
        grouped = _pad(grouped, 3)
        blocks = kernel.view(types, -1, types, *grouped.shape[1:])
        one_hot = torch.eye(types, dtype=kernel.dtype, device=kernel.device).view(types, 1, types, 1, 1, 1)
        kernel = torch.addcmul(blocks, grouped.view(types, -1, 1, *grouped.shape[1:]), one_hot).view(kernel.shape)
        bias = bias + grouped_bias
    out_BCHW = F.conv2d(_channels_last(map_BCHW), kernel, None, strides, 1)
    if large:
        grouped_BCHW, grouped_bias = _convolve_master(map_BCHW, large, types, strides)
        out_BCHW, bias = out_BCHW + grouped_BCHW, bias + grouped_bias
    return out_BCHW, bias


def _convolve_approximate(
    map_BCHW: torch.Tensor, weights: ApproximateWeights, options: BlockOptions, strides: int, training: bool
) -> torch.Tensor:
    """Return the two branches, each weighted by a coefficient per capsule, and summed."""
    plain = BlockOptions(types=options.types)  # the block's capsule norm and missing ReLU do not act inside branches
    master_BCHW, master_bias = _convolve_master(map_BCHW, weights.master, options.types, strides)
    master_BCHW = _normalize_and_squash(master_BCHW, master_bias, weights.master_norm, plain, training)
    padding = weights.aide.kernel.shape[-1] // 2
    aide_BCHW = F.conv2d(_channels_last(map_BCHW), weights.aide.kernel, None, strides, padding)
    aide_BCHW = _normalize_and_squash(aide_BCHW, weights.aide.bias, weights.aide_norm, plain, training)
    by_type = (options.types, -1)
    with full_precision(master_BCHW, aide_BCHW) as wide:
        of_master = _convolve_coefficients(wide(master_BCHW), _widen(weights.master_coefficient, wide), options.types)
        of_aide = _convolve_coefficients(wide(aide_BCHW), _widen(weights.aide_coefficient, wide), options.types)
        if options.coefficients == "cross":
            of_master, of_aide = of_aide, of_master
        master_BNEHW, aide_BNEHW = wide(master_BCHW).unflatten(1, by_type), wide(aide_BCHW).unflatten(1, by_type)
        routed_BCHW = torch.addcmul(master_BNEHW * of_master, aide_BNEHW, of_aide).flatten(1, 2)
    return routed_BCHW.to(master_BCHW.dtype)


def _widen(convolution: ConvolutionWeights, wide: Callable[[torch.Tensor], torch.Tensor]) -> ConvolutionWeights:
    return ConvolutionWeights(wide(convolution.kernel), wide(convolution.bias))


def _convolve_coefficients(map_BCHW: torch.Tensor, convolution: ConvolutionWeights, types: int) -> torch.Tensor:
    """One number per capsule, `(B, N, 1, H, W)`."""
    return F.conv2d(map_BCHW, *convolution, padding=1, groups=types).unsqueeze(2)
