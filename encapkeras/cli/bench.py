"""`encapkeras bench`: times one part of encapkeras on this machine."""

from __future__ import annotations

import argparse

from encapkeras.benchmarks import data as bench_data
from encapkeras.benchmarks import routing as bench_routing
from encapkeras.benchmarks import step as bench_step
from encapkeras.benchmarks import transport as bench_transport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks, each a command of its own."""
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for name, module, summary in (
        ("data", bench_data, "images per second that the input pipeline makes"),
        ("routing", bench_routing, "time and memory of routing without votes, against the textbook way"),
        ("step", bench_step, "time of a training step, against the usual way of writing it"),
        (
            "transport",
            bench_transport,
            "time of optimal transport, against POT (pip install 'encapkeras[bench]') and the textbook way",
        ),
    ):
        benchmark = benchmarks.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        module.add_arguments(benchmark)
        benchmark.set_defaults(run_benchmark=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    code: int = arguments.run_benchmark(arguments)
    return code
