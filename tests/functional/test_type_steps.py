"""Steps that each capsule type takes by itself: the kernels equal the plain operations, whole stages those of torch."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from encapkeras.functional import (
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    NormWeights,
    StepWeights,
    capsule_block,
    capsule_stage,
    squash,
)
from encapkeras.functional.block_weights import StepOptions
from encapkeras.functional.kernels.choice import use_kernels
from encapkeras.functional.mix_types import mix_types
from encapkeras.functional.type_steps import runs_type_steps, type_steps

LAYOUTS = [torch.contiguous_format, torch.channels_last]
BOUND = {torch.float32: 2e-6, torch.float64: 1e-12}
# Batch, types, dimension, height, width: few positions, rows longer than a chunk, one position, one component.
SHAPES = [(5, 4, 2, 3, 3), (2, 3, 3, 40, 60), (70, 2, 8, 1, 1), (1, 5, 1, 6, 5), (3, 12, 4, 9, 7)]


def largest(received, expected, least=1e-30):
    pairs = [(a, b) for a, b in zip(received, expected, strict=True) if b.numel()]
    return max(((a - b).abs().max() / b.abs().max().clamp_min(least)).item() for a, b in pairs)


def literal_steps(x, matrices, scales, offsets, options):
    outputs, base = [], None
    for number, (scale, offset) in enumerate(zip(scales, offsets, strict=True)):
        step = number - (len(scales) - len(matrices))
        if step >= 0:
            base = x if step == 0 else base
            x = mix_types(x, matrices[step], base if options.skip and number == len(scales) - 1 else None)
        scale, offset = (each.view(-1, 1, 1) for each in (scale, offset))
        if not options.given:
            parts = x.unflatten(1, (options.types, -1)) if options.by_type else x.unsqueeze(2)
            axes = (0, 2, 3, 4)
            variance, mean = torch.var_mean(parts, axes, correction=0, keepdim=True)
            x = ((parts - mean) / (variance + options.epsilon).sqrt()).view(x.shape)
        x = x * scale + offset
        x = squash((F.relu(x) if options.relu else x).unflatten(1, (options.types, -1)), dim=2).flatten(1, 2)
        outputs.append(x)
    return outputs[-1], *(outputs[tap] for tap in options.taps)


def problem(shape, steps, first, dtype, layout):
    batch, types, dim, height, width = shape
    generator = torch.Generator().manual_seed(steps)
    draw = [torch.randn(batch, types * dim, height, width, generator=generator, dtype=torch.float64)]
    draw.append(torch.randn(steps - first, types, dim, dim, generator=generator, dtype=torch.float64))
    draw += [0.5 + torch.rand(2, steps, types * dim, generator=generator, dtype=torch.float64)[k] for k in range(2)]
    leaves = [each.to(dtype) for each in draw]
    leaves[0] = leaves[0].contiguous(memory_format=layout)
    return [leaf.requires_grad_() for leaf in leaves]


CASES = [
    (steps, first, StepOptions(types=0, skip=skip, given=given, relu=relu, by_type=by_type, taps=taps))
    for steps, first, skip, given, relu, by_type, taps in [
        (1, 1, False, False, True, False, ()),
        (1, 1, False, False, False, True, ()),
        (1, 1, False, True, True, False, ()),
        (1, 0, True, False, True, False, ()),
        (2, 0, True, False, True, False, (0,)),
        (3, 1, True, False, True, False, (0, 1)),
        (3, 1, False, True, False, False, (1,)),
        (4, 0, True, True, True, False, (2,)),
    ]
]


@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize(("steps", "first", "options"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", BOUND)
def test_kernels_equal_the_literal_steps(dtype, shape, steps, first, options, layouts):
    options = options._replace(types=shape[1], memory_format=layouts[1])
    leaves = problem(shape, steps, first, dtype, layouts[0])
    if options.by_type:
        leaves[2:] = [
            leaf.detach()[:, :: shape[2]].repeat_interleave(shape[2], 1).requires_grad_() for leaf in leaves[2:]
        ]
    with use_kernels("numba"):
        assert runs_type_steps(leaves[0], options.types)
        _, _, *received = type_steps(*leaves, options)
    assert received[0].is_contiguous(memory_format=layouts[1])
    expected = literal_steps(*[leaf.double() for leaf in leaves], options)
    generator = torch.Generator().manual_seed(9)
    upstream = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in expected]
    upstream[0] = upstream[0].contiguous(memory_format=layouts[1])
    gradients = torch.autograd.grad(received, leaves, [each.to(dtype) for each in upstream])
    wanted = torch.autograd.grad(expected, leaves, upstream, materialize_grads=True)
    assert largest(received, expected) < BOUND[dtype]
    # A batch norm takes away the gradient of a matrix of one number: what is left is rounding.
    assert largest(gradients, wanted, least=1) < 10 * BOUND[dtype]


def test_second_derivatives():
    leaves = problem((2, 2, 2, 3, 2), 2, 0, torch.float64, torch.contiguous_format)
    options = StepOptions(types=2, skip=True, taps=(0,))
    results = []
    with use_kernels("numba"):
        for outputs in (type_steps(*leaves, options)[2:], literal_steps(*leaves, options)):
            loss = sum(each.square().sum() for each in outputs)
            first = torch.autograd.grad(loss, leaves, create_graph=True)
            results.append((*first, *torch.autograd.grad(sum(each.square().sum() for each in first), leaves)))
    assert largest(*results) < 1e-9


def test_an_output_that_nobody_uses_costs_no_gradient():
    leaves = problem((2, 2, 2, 3, 3), 2, 0, torch.float64, torch.contiguous_format)
    options = StepOptions(types=2, taps=(0,))
    with use_kernels("numba"):
        tap = type_steps(*leaves, options)[3]
        received = torch.autograd.grad(tap.square().sum(), leaves)
    expected = torch.autograd.grad(literal_steps(*leaves, options)[1].square().sum(), leaves, materialize_grads=True)
    assert largest(received, expected) < 1e-12
    assert not received[1][1].any()


def own_block(steps, types, dim, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = types * dim
    made = []
    for _ in range(steps):
        kernel = torch.randn(channels, dim, 1, 1, generator=generator, dtype=torch.float64) * dim**-0.5
        bias = torch.randn(channels, generator=generator, dtype=torch.float64)
        norm = NormWeights(*((0.5 + torch.rand(channels, generator=generator)).to(dtype) for _ in range(4)))
        made.append(StepWeights((ConvolutionWeights(kernel.to(dtype), bias.to(dtype)),), norm))
    return BlockWeights(tuple(made), None)


def weights_of(block):
    return [weight for step in block.steps for weight in (*step.routing[0], step.norm.scale, step.norm.offset)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("skip", ["none", "last", "every"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_stages_equal_those_by_torch(steps, skip, half, training):
    types, dim, results = 4, 2, []
    x = torch.randn(3, 6, 5, types, dim, generator=torch.Generator().manual_seed(1)).double()
    for kernels in ("numba", "torch"):
        main, sub = own_block(1, types, dim, torch.float64), own_block(steps, types, dim, torch.float64, 1)
        options = BlockOptions(types=types, skip=skip)
        leaves = [x.clone().requires_grad_(), *(w.requires_grad_() for block in (main, sub) for w in weights_of(block))]
        with use_kernels(kernels):
            outputs = capsule_stage(leaves[0], main, sub, options, options, training=training, half=half)
            made = [each for each in outputs if each is not None]
            loss = sum((each * (number + 1)).sin().sum() for number, each in enumerate(made))
            gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        moving = [each for block in (main, sub) for step in block.steps for each in step.norm.moving()]
        results.append([each.detach() for each in (*made, *gradients, *moving)])
    assert largest(*results) < 1e-9


@pytest.mark.parametrize("training", [True, False])
def test_blocks_equal_those_by_torch(training):
    x = torch.randn(2, 4, 4, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for kernels in ("numba", "torch"):
        with use_kernels(kernels):
            block = own_block(3, 3, 4, torch.float64)
            results.append([capsule_block(x, block, BlockOptions(types=3, skip="last"), training=training)])
    assert largest(*results) < 1e-12
