"""`encapkeras bench`: times one part of encapkeras on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from encapkeras.cli.arguments.device import add_device, torch_device
from encapkeras.errors import ArgumentError

Report = dict[str, Any]

AUGMENTATIONS = ("none", "light", "jitter")
EXAMPLES = (
    "encapkeras bench data --augment none jitter",
    "encapkeras bench routing --rounds 3",
    "encapkeras bench routing --method dynamic --iterations 1 --json",
    "encapkeras bench routing --method self-routing em-windows --batch-size 8",
    "encapkeras bench step --rounds 5 --steps 2",
    "encapkeras bench transport --batch-sizes 64 256 --no-unit",
)
PAGE = "results.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks, each as a command."""
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for name, (summary, add, run_benchmark) in BENCHMARKS.items():
        benchmark = benchmarks.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            examples=[example for example in EXAMPLES if example.split()[2] == name],
            page=PAGE,
        )
        add(benchmark)
        benchmark.set_defaults(run_benchmark=run_benchmark)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    from encapkeras.training.memory import keep_freed_memory

    keep_freed_memory()
    arguments.run_benchmark(arguments)
    return 0


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="fashion_mnist", help="data set to take images from (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (%(default)s)")
    parser.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        nargs="+",
        default=AUGMENTATIONS,
        help="none: 32x32 images as they are; light: resized to 34 once, random crop of 32, mirror; jitter: light and "
        "brightness, contrast, saturation and hue by up to 0.2 (grayscale: without the last two). Default: all",
    )
    parser.add_argument("--repeats", type=int, default=5, help="epochs to time; the median counts (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run_data(arguments: argparse.Namespace) -> None:
    _check_at_least(arguments, repeats=1)
    from rich.console import Console

    from encapkeras.benchmarks import data

    report = data.measure(arguments.dataset, arguments.batch_size, arguments.augment, arguments.repeats)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        Console().print(data.as_table(report))


def _add_routing(parser: argparse.ArgumentParser) -> None:
    from encapkeras.benchmarks import routing_sizes

    parser.add_argument(
        "--method",
        "--routing",  # its former name
        choices=routing_sizes.METHODS,
        nargs="+",
        default=routing_sizes.DEFAULT,
        metavar="METHOD",
        help=f"what to measure: {', '.join(routing_sizes.METHODS)} ({' '.join(routing_sizes.DEFAULT)})",
    )
    for name, meaning in routing_sizes.MEANINGS.items():
        defaults = routing_sizes.defaults(name)
        choices = routing_sizes.CHOICES.get(name)
        parser.add_argument(_option(name), type=int, choices=choices, help=f"{meaning} ({defaults})")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of each variant, run in turn; the median counts (%(default)s)"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run_routing(arguments: argparse.Namespace) -> None:
    from encapkeras.benchmarks import routing_sizes

    given = {name: getattr(arguments, name) for name in routing_sizes.MEANINGS if getattr(arguments, name) is not None}
    _check_at_least(arguments, **{name: routing_sizes.LEAST[name] for name in given}, rounds=1)
    sizes = {method: _sizes(method, given) for method in arguments.method}
    from encapkeras.benchmarks import routing

    runs = [partial(routing.measure, method, sizes[method], arguments.rounds, torch_device()) for method in sizes]
    advice = "Set --batch-size to less, or free memory."
    _print_reports([(run, advice) for run in runs], routing.as_table, arguments.json)


def _sizes(method: str, given: dict[str, int]) -> dict[str, int]:
    from encapkeras.benchmarks import routing_sizes

    own = routing_sizes.METHODS[method]
    foreign = [_option(name) for name in given if name not in own]
    if foreign:
        options = ", ".join(map(_option, own))
        raise ArgumentError(f"{method} has no {', '.join(foreign)}; it has {options}")
    return {**own, **given}


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="training steps in a round (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of each variant, run in turn; the median counts (%(default)s)"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run_step(arguments: argparse.Namespace) -> None:
    _check_at_least(arguments, batch_size=1, steps=1, rounds=1)
    from encapkeras.benchmarks import step

    report = step.measure(arguments.batch_size, arguments.steps, arguments.rounds, torch_device())
    print(json.dumps(report, indent=2) if arguments.json else step.as_table(report))


def _add_transport(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096], metavar="B",
        help="samples in a batch, a table for each (64 128 ... 4096)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=int, default=4, help="features of a sample, but for the unit, which has 4,096 (%(default)s)"
    )
    parser.add_argument("--iterations", type=int, default=10, help="Sinkhorn's iterations (%(default)s)")
    parser.add_argument(
        "--epsilon", type=float, default=1.0, help="strength of the entropic regularization, epsilon (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of each variant, run in turn; the median counts (%(default)s)"
    )
    parser.add_argument("--no-unit", action="store_true", help="leave out the last table, of a whole unit")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run_transport(arguments: argparse.Namespace) -> None:
    _check_at_least(arguments, batch_sizes=2, features=1, iterations=1, rounds=1)
    from encapkeras.benchmarks import transport

    transport.check_pot()
    settings = transport.Settings(arguments.epsilon, arguments.iterations, arguments.rounds, torch_device())
    advice = "Set --batch-sizes to less, or free memory."
    sinkhorns = [
        partial(transport.measure_sinkhorn, size, arguments.features, settings) for size in arguments.batch_sizes
    ]
    runs = [(run, advice) for run in sinkhorns]
    if not arguments.no_unit:
        runs.append((partial(transport.measure_unit, settings), "Use --no-unit, or free memory."))
    _print_reports(runs, transport.as_table, arguments.json)


def _print_reports(
    runs: Sequence[tuple[Callable[[], Report], str]], as_table: Callable[[Report], str], as_json: bool
) -> None:
    """Run benchmarks, each with the advice for too little memory; print each table at once, JSON at the end."""
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory

    reports = []
    for measure, advice in runs:
        with explain_out_of_memory(advice):
            reports.append(measure())
        if not as_json:
            print(as_table(reports[-1]))
    if as_json:
        print(json.dumps(reports, indent=2))


def _check_at_least(arguments: argparse.Namespace, **least: int) -> None:
    for name, lowest in least.items():
        given = getattr(arguments, name)
        value = min(given) if isinstance(given, list) else given
        if value < lowest:
            raise ArgumentError(f"{_option(name)} must be at least {lowest}; received {value}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


Declare = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], None]
BENCHMARKS: dict[str, tuple[str, Declare, Run]] = {
    "data": ("images per second that the input pipeline makes", _add_data, _run_data),
    "routing": ("time and memory of routing, against the textbook way", _add_routing, _run_routing),
    "step": ("time of a training step, against the usual way of writing it", _add_step, _run_step),
    "transport": (
        "time of optimal transport, against POT (pip install 'encapkeras[bench]') and the textbook way",
        _add_transport,
        _run_transport,
    ),
}
