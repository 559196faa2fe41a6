"""Transport problems with known answers, as hypothesis makes them, and the watching of memory."""

from typing import NamedTuple

import torch
from hypothesis import strategies
from support.routing import LargestTensor  # noqa: F401  # watches memory here too

seeds = strategies.integers(0, 2**31)


class Problem(NamedTuple):
    """Two clouds and the exact cost of moving one to the other (the mean distance moved), for a kind of cost."""

    x: torch.Tensor
    y: torch.Tensor
    cost: str
    answer: float


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@strategies.composite
def clouds(draw, features=(1, 2, 3, 40)):
    """Two random clouds of the same size, near or far, of one scale."""
    size, dim = draw(strategies.integers(2, 8)), draw(strategies.sampled_from(features))
    seed = draw(seeds)
    x, y = normal(seed, 2, size, dim) / dim**0.5
    return x, draw(strategies.sampled_from([0.1, 1.0])) * y + draw(strategies.sampled_from([0.0, 1.0]))


@strategies.composite
def diracs(draw):
    """All of x in one point, all of y in another: every plan costs their distance."""
    size, dim, seed = draw(strategies.integers(2, 9)), draw(strategies.sampled_from([1, 3, 40])), draw(seeds)
    here, there = normal(seed, 2, dim)
    answers = {
        "l2": (here - there).norm().item(),
        "sqeuclidean": (here - there).square().sum().item(),
        "cosine": 1 - torch.cosine_similarity(here, there, dim=0).item(),
    }
    cost = draw(strategies.sampled_from(sorted(answers)))
    return Problem(here.expand(size, -1), there.expand(size, -1), cost, answers[cost])


@strategies.composite
def permutations(draw):
    """The same points, far apart, in another order: nothing has to move."""
    size, seed = draw(strategies.integers(2, 9)), draw(seeds)
    x = 10.0 * torch.eye(size, 12, dtype=torch.float64) + normal(seed, size, 12) / 10
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return Problem(x, x[order], draw(strategies.sampled_from(["l2", "sqeuclidean"])), 0.0), order


@strategies.composite
def shifts(draw):
    """A cloud and itself, shifted: with square costs, every point moves by the shift."""
    size, dim, seed = draw(strategies.integers(2, 9)), draw(strategies.sampled_from([1, 3, 40])), draw(seeds)
    x, shift = normal(seed, size, dim), normal(seed + 1, dim) / dim**0.5
    return Problem(x, x + shift, "sqeuclidean", shift.square().sum().item())


@strategies.composite
def lines(draw):
    """Points on a line: the smallest goes to the smallest, and so on."""
    size, seed = draw(strategies.integers(2, 9)), draw(seeds)
    x, y = normal(seed, 2, size, 1)
    answer = (x.sort(0).values - y.sort(0).values).abs().mean().item()
    return Problem(x, y, "l2", answer)
