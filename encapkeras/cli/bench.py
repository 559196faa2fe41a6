"""`encapkeras bench`: times one part of encapkeras on this machine."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from encapkeras.cli.arguments.device import add_device, torch_device
from encapkeras.cli.arguments.output_file import add_overwrite, check_free
from encapkeras.cli.arguments.spec_arguments import add_overrides
from encapkeras.errors import ArgumentError

Report = dict[str, Any]
Advised = tuple[Callable[[], Report], str]
AsTable = Callable[[Report], str]

AUGMENTATIONS = ("none", "light", "jitter")
PARTS = ("layer", "step")
KINDS = ("step", "idle", "memory", "routing", "transport", "peers", "train")
EXAMPLES = (
    "encapkeras bench data --augment none jitter",
    "encapkeras bench routing --rounds 3",
    "encapkeras bench routing --method dynamic --iterations 1 --json",
    "encapkeras bench routing --method self-routing em-windows --batch-size 8",
    "encapkeras bench step --rounds 5 --steps 2",
    "encapkeras bench step --network encapnet_ot --batch-size 128 --set train.precision=bfloat16",
    "encapkeras bench peers --method em --part layer --batch-size 8",
    "encapkeras bench all --json speed.json",
    "encapkeras bench all --quick --only routing peers --json speed.json",
    "encapkeras bench transport --batch-sizes 64 256 --no-unit",
)
PAGE = "benchmarks.md"


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


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec of `bench step` with its overrides."""
    return [(arguments.network, arguments.overrides)] if hasattr(arguments, "network") else []


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen benchmark; return 0, or 1 if a part of all failed."""
    from encapkeras.training.memory import keep_freed_memory

    keep_freed_memory()
    return arguments.run_benchmark(arguments) or 0


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
    from encapkeras.benchmarks.runner import warn_of_others

    report = data.measure(arguments.dataset, arguments.batch_size, arguments.augment, arguments.repeats)
    warn_of_others([report])
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        Console().print(data.as_table(report))


def _add_routing(parser: argparse.ArgumentParser) -> None:
    from encapkeras.benchmarks import routing_sizes

    parser.add_argument(
        "--method",
        "--routing",  # its former name
        type=lambda name: name.replace("_", "-"),
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
    parser.add_argument(
        "--network",
        default="encapnet_master_sub2",
        metavar="SPEC",
        help="a YAML or JSON file, or the name of a bundled spec (%(default)s, the one that is compared with plain "
        "modules)",
    )
    add_overrides(parser)
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

    run = partial(
        step.measure,
        arguments.batch_size,
        arguments.steps,
        arguments.rounds,
        torch_device(),
        arguments.network,
        arguments.overrides,
    )
    as_table = None if arguments.json else step.as_table
    (report,) = _measured([(run, "Set --batch-size to less, or free memory.")], as_table)
    if arguments.json:
        print(json.dumps(report, indent=2))


def _add_peers(parser: argparse.ArgumentParser) -> None:
    from encapkeras.benchmarks.routing_sizes import PEERS

    parser.add_argument(
        "--method",
        choices=PEERS,
        nargs="+",
        default=tuple(PEERS),
        help="capsnet: CapsNet of 2017 with dynamic routing; em: EM routing of 512 capsules with 4x4 poses. Default: "
        "all",
    )
    parser.add_argument(
        "--part",
        choices=PARTS,
        nargs="+",
        default=PARTS,
        help="layer: the routing alone, forward and backward; step: a whole training step. Default: both",
    )
    defaults = "; ".join(f"{' '.join(map(str, batches))}: {method}" for method, batches in PEERS.items())
    parser.add_argument(
        "--batch-size", type=int, nargs="+", metavar="B", help=f"images in a batch, a table for each ({defaults})"
    )
    parser.add_argument("--steps", type=int, default=3, help="training steps in a round (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of each variant, run in turn; the median counts (%(default)s)"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run_peers(arguments: argparse.Namespace) -> None:
    _check_at_least(arguments, steps=1, rounds=1, **({"batch_size": 1} if arguments.batch_size else {}))
    from encapkeras.benchmarks import peers
    from encapkeras.benchmarks.routing_sizes import PEERS

    advice = "Set --batch-size to less, or free memory."
    runs = [
        partial(peers.measure, method, part, batch, arguments.rounds, arguments.steps, torch_device())
        for method in dict.fromkeys(arguments.method)
        for part in dict.fromkeys(arguments.part)
        for batch in arguments.batch_size or PEERS[method]
    ]
    _print_reports([(run, advice) for run in runs], peers.as_table, arguments.json)


def _add_all(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", required=True, metavar="FILE", help="the file to write, anew after each part")
    add_overwrite(parser)
    parser.add_argument(
        "--minutes",
        type=float,
        default=8,
        help="time limit: parts that would not end within it are left out, and the file lists them (%(default)s)",
    )
    parser.add_argument(
        "--only",
        choices=KINDS,
        nargs="+",
        default=KINDS,
        help="step: training steps in float32, TF32 and bfloat16, compiled and not; idle: how long a GPU waits in a "
        "step; memory: of training; routing, transport, peers: against textbooks; train: images per second. Default: "
        "all",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try whether all parts work")
    add_device(parser)


def _run_all(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.minutes < math.inf:
        raise ArgumentError(f"--minutes must be a number above 0; received {arguments.minutes}")
    file = Path(arguments.json)
    check_free(file, arguments.overwrite, option=" with --json")
    from encapkeras.benchmarks import all_parts
    from encapkeras.benchmarks.everything import Session
    from encapkeras.benchmarks.runner import warn_of_others

    device, sizes = torch_device(), all_parts.QUICK if arguments.quick else all_parts.FULL
    parts = [part for part in all_parts.make_parts(sizes, device) if part.name.split(":")[0] in arguments.only]
    settings = {"quick": arguments.quick, "batch_size": sizes.batch_size}
    report = Session(file, 60 * arguments.minutes, device, settings, partial(print, flush=True)).run(parts)
    counts = {name: len(report[name]) for name in ("parts", "errors", "left_out")}
    print(f"{counts['parts']} parts measured, {counts['left_out']} left out, {counts['errors']} failed; see {file}")
    warn_of_others(report["parts"].values())
    return 1 if report["errors"] else 0


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


def _print_reports(runs: Sequence[Advised], as_table: AsTable, as_json: bool) -> None:
    """Run benchmarks; print each table at once, or JSON at the end."""
    reports = _measured(runs, None if as_json else as_table)
    if as_json:
        print(json.dumps(reports, indent=2))


def _measured(runs: Sequence[Advised], as_table: AsTable | None) -> list[Report]:
    """Run benchmarks, each with the advice for too little memory; say at the end if the machine was busy."""
    from encapkeras.benchmarks.runner import warn_of_others
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory

    reports = []
    for measure, advice in runs:
        with explain_out_of_memory(advice):
            reports.append(measure())
        if as_table:
            print(as_table(reports[-1]))
    warn_of_others(reports)
    return reports


def _check_at_least(arguments: argparse.Namespace, **least: int) -> None:
    for name, lowest in least.items():
        given = getattr(arguments, name)
        value = min(given) if isinstance(given, list) else given
        if value < lowest:
            raise ArgumentError(f"{_option(name)} must be at least {lowest}; received {value}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


Declare = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int | None]
BENCHMARKS: dict[str, tuple[str, Declare, Run]] = {
    "data": ("images per second that the input pipeline makes", _add_data, _run_data),
    "routing": ("time and memory of routing, against the textbook way", _add_routing, _run_routing),
    "step": ("time of a training step, against its own convolutions and plain modules", _add_step, _run_step),
    "peers": ("time of published methods, against the usual ways of writing them in torch", _add_peers, _run_peers),
    "transport": (
        "time of optimal transport, against POT (pip install 'encapkeras[bench]') and the textbook way",
        _add_transport,
        _run_transport,
    ),
    "all": ("everything that can be measured in some minutes, into a JSON file", _add_all, _run_all),
}
