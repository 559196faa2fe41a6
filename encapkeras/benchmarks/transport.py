"""Sinkhorn against POT's, and a whole unit of optimal transport against the textbook way."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from encapkeras.benchmarks.runner import (
    Way,
    device_name,
    forward_and_backward,
    milliseconds,
    spread_text,
    table_row,
    total_time,
)
from encapkeras.errors import ArgumentError
from encapkeras.functional import transport_divergence
from encapkeras.losses import OptimalTransport
from encapkeras.reference import transport as textbook

OURS, PLAIN, LOG, SAMPLE, FLOOR = "encapkeras", "POT sinkhorn", "POT sinkhorn_log", "POT solve_sample", "floor"
UNIT = (128, 8, 8, 32, 2)
"""Of the unit's latent and target: batch, height, width, types, dim; 4,096 features a sample."""


class Settings(NamedTuple):
    """How transport is computed and measured."""

    epsilon: float
    iterations: int
    rounds: int
    device: str


class Problem(NamedTuple):
    """Two batches whose transport is computed."""

    x: torch.Tensor
    y: torch.Tensor
    epsilon: float
    iterations: int


def check_pot() -> None:
    """Raise an `ArgumentError` that says how to install POT if it is not there."""
    try:
        importlib.import_module("ot")
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "this benchmark compares with POT, which is not installed: pip install 'encapkeras[bench]'"
        ) from error


def measure_sinkhorn(batch_size: int, features: int, settings: Settings) -> dict[str, Any]:
    """Compare the value of transport between two batches, and its gradient, with POT's."""
    x = torch.randn(batch_size, features, generator=torch.Generator().manual_seed(0))
    y = torch.randn(batch_size, features, generator=torch.Generator().manual_seed(1)) + 0.5
    x, y = (samples.to(settings.device).requires_grad_() for samples in (x, y))
    problem = Problem(x, y, settings.epsilon, settings.iterations)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        OURS: lambda: transport_divergence(**problem._asdict(), debiased=False),
        PLAIN: lambda: _pot_value(problem, "sinkhorn"),
        LOG: lambda: _pot_value(problem, "sinkhorn_log"),
        SAMPLE: lambda: _pot_value_of_samples(problem),
    }
    values = {way: function().item() for way, function in functions.items()}
    ways = {way: forward_and_backward(function, [x, y]) for way, function in functions.items()}
    ways[FLOOR] = _floor(problem)
    report = _report("the value of transport", batch_size, features, ways, settings)
    total = report["forward_and_backward_milliseconds"]
    return {
        **report,
        "speed_up": {way: total[way] / total[OURS] for way in (PLAIN, LOG, SAMPLE)},
        "multiple_of_floor": total[OURS] / total[FLOOR],
        "values": values,
    }


def measure_unit(settings: Settings, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Compare a whole unit without critic, generator and debiased divergence, with textbook transport."""
    latent, target = (
        torch.rand(shape or UNIT, generator=torch.Generator().manual_seed(seed)).to(settings.device).requires_grad_()
        for seed in (0, 1)
    )
    options: dict[str, Any] = {"epsilon": settings.epsilon, "iterations": settings.iterations}
    x, y = latent.detach().flatten(1).requires_grad_(), target.detach().flatten(1).requires_grad_()
    alone, textbook_alone = f"{OURS}, divergence alone", "textbook, divergence alone"
    ways = {
        OURS: _unit(latent, target, options),
        "textbook": _textbook_unit(latent, target, options),
        alone: forward_and_backward(lambda: transport_divergence(x, y, **options), [x, y]),
        textbook_alone: forward_and_backward(lambda: textbook.divergence(x, y, **options), [x, y]),
        FLOOR: _floor(Problem(x, y, **options), problems=3),
    }
    report = _report("a whole unit without critic", len(latent), latent[0].numel(), ways, settings)
    total = report["forward_and_backward_milliseconds"]
    return {
        **report,
        "speed_up": {"textbook": total["textbook"] / total[OURS], textbook_alone: total[textbook_alone] / total[alone]},
        "multiple_of_floor": total[alone] / total[FLOOR],
    }


def _report(what: str, batch_size: int, features: int, ways: dict[str, Way], settings: Settings) -> dict[str, Any]:
    measured = milliseconds(ways, settings.rounds)
    return {
        "what": what,
        "batch_size": batch_size,
        "features": features,
        "iterations": settings.iterations,
        "epsilon": settings.epsilon,
        "device": device_name(settings.device),
        "forward_milliseconds": measured.first,
        "forward_and_backward_milliseconds": measured.median,
        "spread": measured.spread,
        "other_cores": measured.other_cores,
    }


def _unit(latent: torch.Tensor, target: torch.Tensor, options: dict[str, Any]) -> Way:
    unit = OptimalTransport(critic="none", **options)
    unit(latent=latent, target=target, training=True)  # makes the weights
    leaves = [latent, target, *(weight.value for weight in unit.trainable_weights)]
    return forward_and_backward(lambda: unit(latent=latent, target=target, training=True), leaves)


def _textbook_unit(latent: torch.Tensor, target: torch.Tensor, options: dict[str, Any]) -> Way:
    channels = latent.shape[3] * latent.shape[4]
    modules = [torch.nn.ConvTranspose2d(channels, channels, 3, 1, 1), torch.nn.BatchNorm2d(channels), torch.nn.ReLU()]
    generator = torch.nn.Sequential(*modules).to(latent.device)
    latent_BCHW, target_BCHW = (
        tensor.detach().flatten(3).permute(0, 3, 1, 2).contiguous().requires_grad_() for tensor in (latent, target)
    )

    def divergence() -> torch.Tensor:
        return textbook.divergence(generator(latent_BCHW).flatten(1), target_BCHW.flatten(1), **options)

    return forward_and_backward(divergence, [latent_BCHW, target_BCHW, *generator.parameters()])


def _pot_value(problem: Problem, method: str) -> torch.Tensor:
    import ot

    cost = ot.dist(problem.x, problem.y, metric="euclidean")
    weight = cost.new_full((len(cost),), 1 / len(cost))
    settings = {"method": method, "numItermax": problem.iterations, "stopThr": 0, "warn": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numerical errors there; the values show them
        plan = ot.sinkhorn(weight, weight, cost.T, problem.epsilon, **settings).T  # POT updates the columns first
    value: torch.Tensor = (plan * cost).sum()
    return value


def _pot_value_of_samples(problem: Problem) -> torch.Tensor:
    import ot

    settings = {"reg": problem.epsilon, "reg_type": "entropy", "max_iter": problem.iterations, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few iterations do not converge
        result = ot.solve_sample(problem.y, problem.x, metric="euclidean", **settings)
    value: torch.Tensor = result.value_linear
    return value


def _floor(problem: Problem, problems: int = 1) -> Way:
    """The matrix products of the distances, forward and backward, and one exponential of each."""
    x, y = problem.x.detach(), problem.y.detach()
    costs = torch.empty(len(x), len(y), device=x.device)
    of_x, of_y = torch.empty_like(x), torch.empty_like(y)

    def multiply() -> None:
        for _ in range(problems):
            torch.mm(x, y.T, out=costs)
            torch.exp(costs.clamp_(max=0), out=costs)
            torch.mm(costs, y, out=of_x)
            torch.mm(costs.T, x, out=of_y)

    return total_time(multiply, x.device.type)


def as_table(report: dict[str, Any]) -> str:
    """Return a report as lines of text."""
    forward, total = report["forward_milliseconds"], report["forward_and_backward_milliseconds"]
    ratios, values = report["speed_up"], report.get("values", {})
    widths = (28, 13, 17, 24, 12, 12)
    settings = f"{report['iterations']} iterations, epsilon {report['epsilon']:g}; {report['device']}; medians"
    lines = [f"{report['what']}: batch {report['batch_size']}, {report['features']} features, {settings}"]
    heads = ["forward", "and backward", "least to largest", "times ours", "value" if values else ""]
    lines.append(table_row("", heads, widths))
    for way, time in total.items():
        first = f"{forward[way]:.2f} ms" if way in forward else ""
        ratio = f"{ratios[way]:.2f}" if way in ratios else ""
        value = f"{values[way]:.5f}" if way in values else ""
        cells = [first, f"{time:.2f} ms", spread_text(report["spread"][way]), ratio, value]
        lines.append(table_row(way, cells, widths))
    lines.append(f"  {report['multiple_of_floor']:.2f} times the floor (products of distances and exponentials alone)")
    return "\n".join(lines)
