"""What `encapkeras bench routing` measures: of each method its inputs, how it is called, and the textbook version.

A method is called in the same way in `encapkeras.functional` and in the module of its textbook version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from encapkeras.benchmarks.routing_sizes import Sizes
from encapkeras.benchmarks.runner import Way, total_time
from encapkeras.functional import AttentionLayer, EmOptions, NormWeights
from encapkeras.reference import (
    convolution_routing,
    homogeneous_vector_products,
    routing_votes,
    self_attention_votes,
    window_routing_votes,
)

_WITH_VOTES = (window_routing_votes, self_attention_votes)
"""Textbook versions of routing in windows."""

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


class Random:
    """Random tensors, equal in all types and on all devices."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Return normal numbers."""
        return scale * torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return numbers between 0 and 1."""
        return torch.rand(shape, generator=self.generator)


@dataclass(frozen=True)
class Method:
    """A method of routing.

    Attributes:
        tensors: Makes its inputs, all of which are leaves.
        call: Calls its function of a module.
        textbook: The module with its textbook version.
        floor: Makes what no way of this kind can do without.
    """

    tensors: Callable[[Sizes, Random], list[torch.Tensor]]
    call: Callable[[Any, list[torch.Tensor], Sizes], Outputs]
    textbook: Any = window_routing_votes
    floor: Callable[[Sizes, str], Way] | None = None


def _dynamic_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, weight and bias."""
    types, dim, outputs, out_dim = (sizes[name] for name in ("types", "dim", "outputs", "out_dim"))
    return [
        random.normal(sizes["batch_size"], sizes["positions"], types, dim, scale=0.5),
        random.normal(types, outputs, out_dim, dim, scale=dim**-0.5),
        random.normal(types, outputs, out_dim, scale=0.1),
    ]


def _em_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Those of dynamic routing, then activations, beta_v and beta_a."""
    return [
        *_dynamic_tensors(sizes, random),
        random.uniform(sizes["batch_size"], sizes["positions"], sizes["types"]),
        *(random.uniform(sizes["outputs"]) for _ in range(2)),
    ]


def _capsules(sizes: Sizes, random: Random, dim: int) -> torch.Tensor:
    return random.normal(sizes["batch_size"], *[sizes["map_size"]] * 2, sizes["types"], dim, scale=0.5)


def _activations(sizes: Sizes, random: Random) -> torch.Tensor:
    return random.uniform(sizes["batch_size"], *[sizes["map_size"]] * 2, sizes["types"])


def _of_window(sizes: Sizes) -> tuple[int, ...]:
    return (*[1 if sizes["shared"] else sizes["kernel_size"]] * 2, sizes["types"], sizes["outputs"])


def _vector_weight(sizes: Sizes, random: Random) -> torch.Tensor:
    return random.normal(*_of_window(sizes), sizes["out_dim"], sizes["dim"], scale=sizes["dim"] ** -0.5)


def _matrix_weight(sizes: Sizes, random: Random) -> torch.Tensor:
    return random.normal(*_of_window(sizes), *[sizes["pose_size"]] * 2, scale=sizes["pose_size"] ** -0.5)


def _self_routing_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    return [
        _capsules(sizes, random, sizes["dim"]),
        _activations(sizes, random),
        _vector_weight(sizes, random),
        random.normal(*_of_window(sizes), sizes["dim"], scale=sizes["dim"] ** -0.5),
        random.normal(*_of_window(sizes), scale=0.1),
    ]


def _self_attention_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, weight and bias."""
    capsules = _capsules(sizes, random, sizes["dim"])
    return [capsules, _vector_weight(sizes, random), random.normal(*_of_window(sizes), scale=0.1)]


def _window_dynamic_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    return [_capsules(sizes, random, sizes["dim"]), _vector_weight(sizes, random)]


def _attention_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, weight, and scale and offset of the layer norm."""
    dim = sizes["pose_size"] ** 2
    norm = [1 + random.normal(dim, scale=0.1), random.normal(dim, scale=0.1)]
    return [_capsules(sizes, random, dim), _matrix_weight(sizes, random), *norm]


def _gaussian_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, activations and weight."""
    capsules = _capsules(sizes, random, sizes["pose_size"] ** 2)
    return [capsules, _activations(sizes, random), _matrix_weight(sizes, random)]


def _window_em_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Those of Gaussians, then beta_v and beta_a."""
    return [*_gaussian_tensors(sizes, random), *(random.uniform(sizes["outputs"]) for _ in range(2))]


def _call(route: str, routings: Any, tensors: list[torch.Tensor], sizes: Sizes, **options: Any) -> Outputs:
    """Call a routing in windows; its textbook version has no matrices but those of offsets."""
    options |= {name: sizes[name] for name in ("strides", "padding", "iterations") if name in sizes}
    if routings not in _WITH_VOTES:
        options["window"] = sizes["kernel_size"]
    outputs: Outputs = getattr(routings, route)(*_of_offsets(routings, tensors, sizes), **options)
    return outputs


def _of_offsets(routings: Any, tensors: list[torch.Tensor], sizes: Sizes) -> list[torch.Tensor]:
    if routings not in _WITH_VOTES or not sizes["shared"]:
        return tensors
    window = [sizes["kernel_size"]] * 2
    return [part.expand(*window, *part.shape[2:]) if part.shape[:4] == _of_window(sizes) else part for part in tensors]


def _call_attention(routings: Any, tensors: list[torch.Tensor], sizes: Sizes) -> Outputs:
    capsules, weight, scale, offset = _of_offsets(routings, tensors, sizes)
    window = sizes["kernel_size"]
    layer = AttentionLayer(weight, scale, offset, sizes["strides"], sizes["padding"], pose="matrix", window=window)
    return routings.inverted_attention_routing(capsules, layer, iterations=sizes["iterations"])  # type: ignore[no-any-return]


def _convolution_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, kernel and bias."""
    outputs, out_dim, dim = sizes["outputs"], sizes["out_dim"], sizes["dim"]
    sides = [sizes["kernel_size"]] * 2
    kernel = random.normal(outputs * out_dim, dim, *sides, scale=(2 / (dim * sizes["kernel_size"] ** 2)) ** 0.5)
    return [_capsules(sizes, random, dim), kernel, 0.1 + random.normal(outputs, out_dim, scale=0.02)]


def _class_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, weight, and a bias of the outputs."""
    return [*_dynamic_tensors(sizes, random)[:2], random.normal(sizes["outputs"], sizes["out_dim"], scale=0.1)]


def _call_convolution(routings: Any, tensors: list[torch.Tensor], sizes: Sizes) -> Outputs:
    options = {name: sizes[name] for name in ("strides", "iterations")}
    return routings.convolution_dynamic_routing(*tensors, **options)  # type: ignore[no-any-return]


def _call_classes(routings: Any, tensors: list[torch.Tensor], sizes: Sizes) -> Outputs:
    *tensors, bias = tensors
    return routings.dynamic_routing(  # type: ignore[no-any-return]
        *tensors, iterations=sizes["iterations"], softmax_over="outputs", output_bias=bias
    )


def _window_dynamic(competition: str) -> Method:
    return Method(_window_dynamic_tensors, partial(_call, "window_dynamic_routing", competition=competition))


def _window_em(competition: str) -> Method:
    return Method(_window_em_tensors, partial(_call, "window_em_routing", competition=competition, options=EmOptions()))


def _homogeneous_tensors(sizes: Sizes, random: Random) -> list[torch.Tensor]:
    """Capsules, weight and offset."""
    batch, positions, dim, outputs = sizes.values()
    weight = random.normal(dim, positions, outputs, scale=positions**-0.5)
    return [random.normal(batch, positions, dim, scale=0.5), weight, random.normal(dim, scale=0.1)]


def _call_homogeneous(routings: Any, tensors: list[torch.Tensor], sizes: Sizes) -> Outputs:
    capsules, weight, offset = tensors
    fixed = offset.detach()
    norm = NormWeights(torch.ones_like(fixed), offset, torch.zeros_like(fixed), torch.ones_like(fixed))
    return routings.homogeneous_vector_capsules(capsules, weight, norm, training=True)  # type: ignore[no-any-return]


def _floor(width: Callable[[int], int]) -> Callable[[Sizes, str], Way]:
    """The matrix products and exponentials that no way without votes can do without, each in the cache if it fits.

    `width` is the number of features of a capsule with a number of components.
    """

    def floor(sizes: Sizes, device: str) -> Way:
        batch, types, positions, dim, outputs, out_dim, iterations = sizes.values()
        inner = width(dim + 1)
        groups = max(1, min(batch * types, (1 << 18) // (outputs * positions)))
        query, key, pair = (
            torch.rand(shape, device=device)
            for shape in ((groups, outputs, inner), (groups, inner, positions), (groups, outputs, positions))
        )
        gathered = torch.rand(outputs, batch, types * inner, device=device)
        weight = torch.rand(outputs, types * inner, out_dim, device=device)
        vote = torch.rand(outputs, batch, out_dim, device=device)
        out_pair, out_query, out_key = torch.empty_like(pair), torch.empty_like(query), torch.empty_like(key)
        out_gathered, out_weight, out_vote = (
            torch.empty_like(gathered),
            torch.empty_like(weight),
            torch.empty_like(vote),
        )

        def multiply() -> None:
            # A routed iteration: logits and gathering, four more products backward, one exponential. Then the weights'.
            for _ in range(iterations - 1):
                for _ in range(-(-batch * types // groups)):
                    for _ in range(2):
                        torch.bmm(query, key, out=out_pair)
                        torch.bmm(pair, key.mT, out=out_query)
                        torch.bmm(query.mT, pair, out=out_key)
                    torch.exp(pair, out=out_pair)
            for _ in range(2 * iterations - 1):
                torch.bmm(gathered, weight, out=out_vote)
                torch.bmm(vote, weight.mT, out=out_gathered)
                torch.bmm(gathered.mT, vote, out=out_weight)

        return total_time(multiply, device)

    return floor


METHODS: dict[str, Method] = {
    "dynamic": Method(
        _dynamic_tensors,
        lambda routings, tensors, sizes: routings.dynamic_routing(*tensors, iterations=sizes["iterations"]),
        routing_votes,
        _floor(lambda components: components),
    ),
    "em": Method(
        _em_tensors,
        lambda routings, tensors, sizes: routings.em_routing(*tensors, iterations=sizes["iterations"]),
        routing_votes,
        _floor(lambda components: math.comb(components + 1, 2)),
    ),
    "self-routing": Method(_self_routing_tensors, partial(_call, "self_routing")),
    "self-attention": Method(_self_attention_tensors, partial(_call, "self_attention_routing"), self_attention_votes),
    "inverted-attention": Method(_attention_tensors, _call_attention),
    "variational-bayes": Method(_gaussian_tensors, partial(_call, "variational_bayes_routing")),
    "dynamic-windows": _window_dynamic("position"),
    "dynamic-windows-child": _window_dynamic("child"),
    "em-windows": _window_em("child"),
    "em-windows-position": _window_em("position"),
    "dynamic-convolution": Method(_convolution_tensors, _call_convolution, convolution_routing),
    "dynamic-classes": Method(_class_tensors, _call_classes, routing_votes),
    "homogeneous-vectors": Method(_homogeneous_tensors, _call_homogeneous, homogeneous_vector_products),
}
"""Named as in `routing_sizes`, which has their sizes."""
