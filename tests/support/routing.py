"""Random inputs of routings, and what watches the size of tensors."""

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Inputs(NamedTuple):
    capsules: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    activations: torch.Tensor
    beta_v: torch.Tensor
    beta_a: torch.Tensor

    @property
    def of_dynamic(self):
        return self.capsules, self.weight, self.bias

    def to(self, dtype):
        """The same numbers as new leaves."""
        return Inputs(*(tensor.detach().to(dtype).requires_grad_() for tensor in self))


def random_inputs(
    *, batch=2, positions=3, types=2, dim=4, outputs=3, out_dim=5, scale=1.0, seed=0, dtype=torch.float64
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return Inputs(
        scale * normal(batch, positions, types, dim),
        normal(types, outputs, out_dim, dim) / dim**0.5,
        0.1 * normal(types, outputs, out_dim),
        uniform(batch, positions, types),
        uniform(outputs),
        uniform(outputs),
    ).to(dtype)


def gradients(outputs, inputs, seed=1, materialize=False):
    """Gradients of a fixed random sum of the outputs."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(seed)
    loss = sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outputs)
    return torch.autograd.grad(loss, inputs, materialize_grads=materialize)


def largest_difference(received, expected):
    """Of numbers, relative to the largest of each tensor where that is above 1."""
    return max(
        ((x - y).abs().max() / y.abs().max().clamp_min(1)).item() for x, y in zip(received, expected, strict=True)
    )


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that an operation makes, forward and backward."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result
