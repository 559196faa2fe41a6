"""Triton's kernels beside torch's operations, on a GPU or, as a script, in Triton's interpreter.

`TRITON_INTERPRET=1 python -m support.triton_cases quick` prints the largest differences of each case as JSON.
"""

import functools
import itertools
import json
import sys

import torch

from encapkeras.functional import batch_norm_relu_squash, dynamic_routing, em_routing
from encapkeras.functional.batch_norm_relu_squash import affine_relu_squash
from encapkeras.functional.kernels.choice import runs_triton, use_kernels
from encapkeras.functional.routing.attention import attend_over_inputs, attend_over_outputs

ATTENTION = {  # B, N, J, P, K, L
    "quick": [(2, 3, 10, 36, 9, 9), (1, 1, 1, 1, 1, 1), (2, 1, 33, 5, 17, 20)],
    "slow": [(1, 2, 512, 130, 17, 9), (3, 2, 40, 300, 9, 17), (1, 1, 20, 1024, 33, 64), (2, 2, 1, 70, 5, 3)],
}
NORM = {  # B, N, D, H, W
    "quick": [(5, 4, 2, 3, 3), (3, 2, 5, 6, 7), (2, 3, 1, 5, 1)],
    "slow": [(40, 1, 8, 16, 16), (16, 2, 17, 9, 11), (300, 1, 8, 4, 4), (2, 1, 200, 3, 5)],
}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def difference(found, expected):
    """The largest difference, as a part of the largest number expected."""
    found, expected = (tensor.detach().cpu().double() for tensor in (found, expected))
    return float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)


def alike(result):
    """Random numbers that lie in memory as a result does."""
    return torch.empty_like(result).copy_(random(*result.shape, seed=9))


def compared(function, tensors, dtype, device):
    """The differences of the results and gradients of a function by Triton, and of those by torch, from float64's."""

    def run(kernels, dtype, device):
        leaves = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in tensors]
        with use_kernels(kernels):
            assert runs_triton(leaves[0]) == (kernels == "triton")
            results = function(*leaves)
            results = results if isinstance(results, tuple) else (results,)
            through = [result for result in results if result.requires_grad]
            upstream = [alike(result) for result in through]
            return [*results, *torch.autograd.grad(through, leaves, upstream, materialize_grads=True)]

    expected = run("torch", torch.float64, "cpu")
    received, of_torch = run("triton", dtype, device), run("torch", dtype, device)
    assert all(tensor.dtype == dtype for tensor in received)
    return [
        (difference(found, right), difference(other, right))
        for found, other, right in zip(received, of_torch, expected, strict=True)
    ]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def attention_inputs(batch, types, outputs, positions, numbers, values):
    query = 0.5 * random(outputs, batch * types, numbers)
    capsule = random(batch * types, numbers, positions, seed=1)
    capsule[:, 0] = 1
    return query, capsule, random(batch * types, values, positions, seed=2)


def over_inputs(sizes, dtype, device):
    query, capsule, _ = attention_inputs(*sizes)
    return compared(functools.partial(attend_over_inputs, types=sizes[1]), (query, capsule), dtype, device)


def over_outputs(sizes, dtype, device):
    return compared(attend_over_outputs, attention_inputs(*sizes), dtype, device)


def norm(sizes, dtype, device):
    """All layouts in memory: of the map, and of the result and its gradient."""
    batch, types, dim, height, width = sizes
    x = random(batch, types * dim, height, width)
    of_channel = random(types * dim, seed=1), random(types * dim, seed=2)
    of_type = random(types, seed=1), random(types, seed=2)
    found = []
    for before, after in itertools.product(LAYOUTS, repeat=2):
        for relu, (scale, offset) in zip((True, False), (of_channel, of_type), strict=True):

            def normed(x, scale, offset, before=before, after=after, relu=relu):
                x = x.contiguous(memory_format=before)
                return batch_norm_relu_squash(x, scale, offset, types, relu=relu, memory_format=after)

            found += compared(normed, (x, scale, offset), dtype, device)

        def moved(x, slope, shift, before=before, after=after):
            x = x.contiguous(memory_format=before)
            return affine_relu_squash(x, slope, shift, types, relu=before == after, memory_format=after)

        found += compared(moved, (x, *of_channel), dtype, device)
    return found


def second_derivatives(_, dtype, device):
    """Gradients of squares of gradients."""

    def of(function):
        def run(*leaves):
            result = function(*leaves)
            return torch.autograd.grad(result.square().sum(), leaves, create_graph=True)

        return run

    query, capsule, value = attention_inputs(2, 2, 5, 7, 3, 4)
    x, scale, offset = random(3, 6, 2, 3), random(6, seed=1), random(6, seed=2)
    cases = [
        (functools.partial(attend_over_inputs, types=2), (query, capsule)),
        (attend_over_outputs, (query, capsule, value)),
        (lambda *leaves: batch_norm_relu_squash(*leaves, 3)[0], (x, scale, offset)),
    ]
    return [number for function, given in cases for number in compared(of(function), given, dtype, device)]


def routings(_, dtype, device):
    """Whole routings, whose queries and gradients lie in memory as they come."""
    capsules, weight, bias = random(2, 9, 3, 4), random(3, 5, 6, 4, seed=1), random(3, 5, 6, seed=2)
    found = []
    for axis in ("inputs", "outputs"):
        found += compared(
            functools.partial(dynamic_routing, softmax_over=axis), (capsules, weight, bias), dtype, device
        )
    activation = random(2, 9, 3, seed=3).sigmoid()
    betas = random(5, seed=4), random(5, seed=5)
    for normalize in (False, True):
        em = functools.partial(em_routing, normalize_distances=normalize)
        found += compared(em, (capsules, weight, bias, activation, *betas), dtype, device)
    return found


FUNCTIONS = {"over_inputs": over_inputs, "over_outputs": over_outputs, "norm": norm}
CASES = {
    amount: [(name, sizes) for name in FUNCTIONS for sizes in (NORM if name == "norm" else ATTENTION)[amount]]
    for amount in ("quick", "slow")
}
FUNCTIONS |= {"second_derivatives": second_derivatives, "routings": routings}
CASES["quick"] += [("second_derivatives", ()), ("routings", ())]
TOLERANCE = {"float64": 1e-10, "float32": 1e-6}


def check(name, dtype, differences, times=1):
    """Fail where Triton differs by more than some times the tolerance, unless torch in the same type does as well."""
    as_torch = 10 if name == "routings" else 2  # iterations enlarge what rounding did
    worst_of_torch = max(other for _, other in differences)
    allowed = max(times * TOLERANCE[dtype], as_torch * worst_of_torch)
    assert all(ours <= allowed for ours, _ in differences), (name, dtype, allowed, differences)


if __name__ == "__main__":
    found = [
        [name, sizes, dtype, FUNCTIONS[name](sizes, getattr(torch, dtype), "cpu")]
        for name, sizes in CASES[sys.argv[1]]
        for dtype in TOLERANCE
    ]
    print(json.dumps(found))
