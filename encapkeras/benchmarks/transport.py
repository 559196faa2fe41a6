"""`encapkeras bench transport`: Sinkhorn against POT's, and the divergence of features against the textbook way."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from encapkeras.cli.arguments.device import add_device, torch_device

if TYPE_CHECKING:
    import torch

OURS, PLAIN, LOG, SAMPLE, FLOOR = "encapkeras", "POT sinkhorn", "POT sinkhorn_log", "POT solve_sample", "floor"
UNIT = (128, 8, 8, 32, 2)
"""Of the unit's latent and target: batch, height, width, types, dim; 4,096 features a sample."""


class Problem(NamedTuple):
    """Two batches to be compared, and how."""

    x: torch.Tensor
    y: torch.Tensor
    epsilon: float
    iterations: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras bench transport`."""
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096], metavar="B",
        help="samples in a batch, a table for each (64 128 ... 4096)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=int, default=4, help="features of a sample, but for the unit, which has 4,096 (%(default)s)"
    )
    parser.add_argument("--iterations", type=int, default=10, help="Sinkhorn's iterations (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=1.0, help="strength of the entropy (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each way, in turn; medians (%(default)s)")
    parser.add_argument("--no-unit", action="store_true", help="leave out the last table, of a whole unit")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Times all ways in turn, forward and backward.

    Args:
        arguments: As declared by `add_arguments`.

    Raises:
        ArgumentError: An option has an impossible value, or POT is not installed.
        TrainingError: The memory is not enough.
    """
    from encapkeras.errors import ArgumentError
    from encapkeras.training.memory.out_of_memory import saying_how_to_save_memory

    least = {"batch_sizes": 2, "features": 1, "iterations": 1, "rounds": 1}
    for name, lowest in least.items():
        given = getattr(arguments, name)
        value = min(given) if isinstance(given, list) else given
        if value < lowest:
            raise ArgumentError(f"--{name.replace('_', '-')} must be at least {lowest}; received {value}")
    _check_pot()
    reports: list[dict[str, Any]] = []
    for batch_size in arguments.batch_sizes:
        with saying_how_to_save_memory("Set --batch-sizes to less, or free memory."):
            reports.append(measure_sinkhorn(batch_size, arguments))
        if not arguments.json:
            print(_as_table(reports[-1]))
    if not arguments.no_unit:
        with saying_how_to_save_memory("Use --no-unit, or free memory."):
            reports.append(measure_unit(arguments))
        if not arguments.json:
            print(_as_table(reports[-1]))
    if arguments.json:
        print(json.dumps(reports, indent=2))
    return 0


def _check_pot() -> None:
    from encapkeras.errors import ArgumentError

    try:
        importlib.import_module("ot")
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "this benchmark compares with POT, which is not installed: pip install 'encapkeras[bench]'"
        ) from error


def measure_sinkhorn(batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The value of transport between two batches, by us and by POT.

    Args:
        batch_size: Samples in a batch.
        arguments: As declared by `add_arguments`.

    Returns:
        Milliseconds (medians), ratios, our multiple of the floor, and the value that each way gives.
    """
    import torch

    device = torch_device()
    x = torch.randn(batch_size, arguments.features, generator=torch.Generator().manual_seed(0))
    y = torch.randn(batch_size, arguments.features, generator=torch.Generator().manual_seed(1)) + 0.5
    x, y = x.to(device).requires_grad_(), y.to(device).requires_grad_()
    problem = Problem(x, y, arguments.epsilon, arguments.iterations)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        OURS: lambda: _ours(problem),
        PLAIN: lambda: _pot(problem, "sinkhorn"),
        LOG: lambda: _pot(problem, "sinkhorn_log"),
        SAMPLE: lambda: _pot_from_samples(problem),
    }
    values = {way: function().item() for way, function in ways.items()}
    steps = {way: _step(function, [x, y]) for way, function in ways.items()}
    steps[FLOOR] = _floor(problem)
    report = _timed(steps, arguments.rounds)
    total = report["forward_and_backward_milliseconds"]
    return {
        "what": "the value of transport",
        "batch_size": batch_size,
        "features": arguments.features,
        **_surroundings(device, arguments),
        **report,
        "speed_up": {way: total[way] / total[OURS] for way in (PLAIN, LOG, SAMPLE)},
        "multiple_of_floor": total[OURS] / total[FLOOR],
        "values": values,
    }


def measure_unit(arguments: argparse.Namespace) -> dict[str, Any]:
    """A whole unit without critic: generator and debiased divergence, by us and with textbook transport.

    Args:
        arguments: As declared by `add_arguments`.

    Returns:
        As `measure_sinkhorn`.
    """
    import torch

    from encapkeras.functional import transport_divergence
    from encapkeras.losses import OptimalTransport
    from encapkeras.reference import transport as textbook

    device = torch_device()
    options = {"epsilon": arguments.epsilon, "iterations": arguments.iterations}
    latent, target = (
        torch.rand(UNIT, generator=torch.Generator().manual_seed(seed)).to(device).requires_grad_() for seed in (0, 1)
    )
    unit = OptimalTransport(critic="none", **options)
    unit(latent=latent, target=target, training=True)
    channels = UNIT[3] * UNIT[4]
    modules = [torch.nn.ConvTranspose2d(channels, channels, 3, 1, 1), torch.nn.BatchNorm2d(channels), torch.nn.ReLU()]
    generator = torch.nn.Sequential(*modules).to(device)
    latent_BCHW, target_BCHW = (
        tensor.detach().flatten(3).permute(0, 3, 1, 2).contiguous().requires_grad_() for tensor in (latent, target)
    )

    def ours() -> torch.Tensor:
        value: torch.Tensor = unit(latent=latent, target=target, training=True)
        return value

    def plain() -> torch.Tensor:
        return textbook.divergence(generator(latent_BCHW).flatten(1), target_BCHW.flatten(1), **options)

    x, y = latent.detach().flatten(1).requires_grad_(), target.detach().flatten(1).requires_grad_()
    steps = {
        OURS: _step(ours, [latent, target, *(weight.value for weight in unit.trainable_weights)]),
        "textbook": _step(plain, [latent_BCHW, target_BCHW, *generator.parameters()]),
        f"{OURS}, divergence alone": _step(lambda: transport_divergence(x, y, **options), [x, y]),
        "textbook, divergence alone": _step(lambda: textbook.divergence(x, y, **options), [x, y]),
        FLOOR: _floor(Problem(x, y, **options), problems=3),
    }
    report = _timed(steps, arguments.rounds)
    total = report["forward_and_backward_milliseconds"]
    return {
        "what": "a whole unit without critic",
        "batch_size": len(latent),
        "features": latent[0].numel(),
        **_surroundings(device, arguments),
        **report,
        "speed_up": {
            "textbook": total["textbook"] / total[OURS],
            "textbook, divergence alone": total["textbook, divergence alone"] / total[f"{OURS}, divergence alone"],
        },
        "multiple_of_floor": total[f"{OURS}, divergence alone"] / total[FLOOR],
    }


def _surroundings(device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    return {"iterations": arguments.iterations, "epsilon": arguments.epsilon, "device": name}


def _ours(problem: Problem) -> torch.Tensor:
    from encapkeras.functional import transport_divergence

    return transport_divergence(
        problem.x, problem.y, epsilon=problem.epsilon, iterations=problem.iterations, debiased=False
    )


def _pot(problem: Problem, method: str) -> torch.Tensor:
    import ot

    cost = ot.dist(problem.x, problem.y, metric="euclidean")
    weight = cost.new_full((len(cost),), 1 / len(cost))
    settings = {"method": method, "numItermax": problem.iterations, "stopThr": 0, "warn": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what goes wrong there; the values show it
        plan = ot.sinkhorn(weight, weight, cost.T, problem.epsilon, **settings).T  # POT updates the columns first
    value: torch.Tensor = (plan * cost).sum()
    return value


def _pot_from_samples(problem: Problem) -> torch.Tensor:
    import ot

    settings = {"reg": problem.epsilon, "reg_type": "entropy", "max_iter": problem.iterations, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        result = ot.solve_sample(problem.y, problem.x, metric="euclidean", **settings)
    value: torch.Tensor = result.value_linear
    return value


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _step(function: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> Callable[[], tuple[float, float]]:
    """One forward and backward pass; seconds until the first and until the second is done."""
    import torch

    def step() -> tuple[float, float]:
        _wait()
        start = time.perf_counter()
        value = function()
        _wait()
        forward = time.perf_counter() - start
        torch.autograd.grad(value, leaves, allow_unused=True)
        _wait()
        return forward, time.perf_counter() - start

    return step


def _floor(problem: Problem, problems: int = 1) -> Callable[[], tuple[float, float]]:
    """The matrix products of the distances, forward and backward, and one exponential of each."""
    import torch

    x, y = problem.x.detach(), problem.y.detach()
    costs = torch.empty(len(x), len(y), device=x.device)
    of_x, of_y = torch.empty_like(x), torch.empty_like(y)

    def step() -> tuple[float, float]:
        _wait()
        start = time.perf_counter()
        for _ in range(problems):
            torch.mm(x, y.T, out=costs)
            torch.exp(costs.clamp_(max=0), out=costs)
            torch.mm(costs, y, out=of_x)
            torch.mm(costs.T, x, out=of_y)
        _wait()
        return 0.0, time.perf_counter() - start

    return step


def _timed(steps: dict[str, Callable[[], tuple[float, float]]], rounds: int) -> dict[str, Any]:
    """Medians in milliseconds; the ways take turns, each after one pass that does not count."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in steps}
    for _ in range(rounds):
        for way, step in steps.items():
            step()
            times[way].append(step())
    forward = {way: 1000 * statistics.median(first for first, _ in times[way]) for way in steps if way != FLOOR}
    total = {way: 1000 * statistics.median(both for _, both in times[way]) for way in steps}
    return {"forward_milliseconds": forward, "forward_and_backward_milliseconds": total}


def _as_table(report: dict[str, Any]) -> str:
    forward, total = report["forward_milliseconds"], report["forward_and_backward_milliseconds"]
    settings = f"{report['iterations']} iterations, epsilon {report['epsilon']:g}; {report['device']}; medians"
    lines = [f"{report['what']}: batch {report['batch_size']}, {report['features']} features, {settings}"]
    values = report.get("values", {})
    lines.append(f"  {'':<28}{'forward':>13}{'and backward':>17}{'times ours':>12}{'value' if values else '':>12}")
    for way, time_taken in total.items():
        first = f"{forward[way]:>10.2f} ms" if way in forward else " " * 13
        ratio = f"{report['speed_up'][way]:>12.2f}" if way in report["speed_up"] else " " * 12
        value = f"{values[way]:>12.5f}" if way in values else ""
        lines.append(f"  {way:<28}{first}{time_taken:>14.2f} ms{ratio}{value}".rstrip())
    lines.append(f"  {report['multiple_of_floor']:.2f} times the floor (products of distances and exponentials alone)")
    return "\n".join(lines)
