"""Routings in windows by one call, `METHODS[name](inputs, iterations=..., **options)`, for tests of what all hold."""

from typing import NamedTuple

import torch

from encapkeras.functional import (
    AttentionLayer,
    EmOptions,
    inverted_attention_routing,
    self_attention_routing,
    self_routing,
    variational_bayes_routing,
    window_dynamic_routing,
    window_em_routing,
)

TYPES, DIM, OUTPUTS = 3, 4, 4


class Inputs(NamedTuple):
    """What some routing takes. A vector and a matrix pose of 2 rows have equally many components."""

    capsules: torch.Tensor
    activations: torch.Tensor
    weight: torch.Tensor
    routing_weight: torch.Tensor
    routing_bias: torch.Tensor
    scale: torch.Tensor
    beta_v: torch.Tensor
    beta_a: torch.Tensor

    def by_position(self, change):
        """Change what belongs to the windows, and may belong to each position."""
        names = ("weight", "routing_weight", "routing_bias")
        return self._replace(**{name: change(getattr(self, name)) for name in names})

    @property
    def leaves(self):
        return [tensor for tensor in self if tensor.requires_grad]


def random_inputs(
    *,
    batch=2,
    height=5,
    width=4,
    kernel=(3, 2),
    types=TYPES,
    outputs=OUTPUTS,
    dim=DIM,
    pose="vector",
    positions=(),
    dtype=torch.float64,
):
    """Random leaves; `positions` are those whose weights are their own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    window = (*positions, *kernel, types, outputs)
    tensors = (
        normal(batch, height, width, types, dim),
        torch.rand((batch, height, width, types), generator=generator, dtype=torch.float64),
        normal(*window, *((dim, dim) if pose == "vector" else (dim // 2, dim // 2))) / 2,
        normal(*window, dim),
        normal(*window),
        1 + 0.1 * normal(dim),
        normal(outputs),
        normal(outputs),
    )
    return Inputs(*(tensor.to(dtype).requires_grad_() for tensor in tensors))


def random_coefficients(kernel=(3, 2), types=TYPES, outputs=OUTPUTS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((*kernel, types, outputs), generator=generator, dtype=torch.float64)
    return logits.softmax(-1).to(dtype).requires_grad_()


def _self_routing(inputs, iterations, **options):
    routing = (inputs.routing_weight, inputs.routing_bias)
    return self_routing(inputs.capsules, inputs.activations, inputs.weight, *routing, **options)


def _dynamic(competition):
    def route(inputs, iterations, **options):
        options.update(iterations=iterations, competition=competition)
        return (window_dynamic_routing(inputs.capsules, inputs.weight, **options),)

    return route


def _attention(inputs, iterations, **options):
    layer = AttentionLayer(inputs.weight, inputs.scale, 0.1 * inputs.scale, **options)
    return (inverted_attention_routing(inputs.capsules, layer, iterations=iterations),)


def _self_attention(inputs, iterations, **options):
    return (self_attention_routing(inputs.capsules, inputs.weight, inputs.routing_bias, **options),)


def _em(competition):
    def route(inputs, iterations, pose="vector", **options):
        betas = inputs.beta_v, inputs.beta_a
        options.update(iterations=iterations, competition=competition, pose=pose, options=EmOptions(final_lambda=0.1))
        return window_em_routing(inputs.capsules, inputs.activations, inputs.weight, *betas, **options)

    return route


def _bayes(**how):
    def route(inputs, iterations, pose="vector", **options):
        options.update(iterations=iterations, pose=pose, **how)
        return variational_bayes_routing(inputs.capsules, inputs.activations, inputs.weight, **options)

    return route


METHODS = {
    "self_routing": _self_routing,
    "dynamic_position": _dynamic("position"),
    "dynamic_child": _dynamic("child"),
    "inverted_attention": _attention,
    "self_attention": _self_attention,
    "em_position": _em("position"),
    "em_child": _em("child"),
    "bayes_position": _bayes(competition="position"),
    "bayes_child": _bayes(),
    "bayes_full_position": _bayes(competition="position", covariance="full"),
    "bayes_full_child": _bayes(covariance="full"),
}
