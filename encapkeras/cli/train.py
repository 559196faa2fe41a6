"""`encapkeras train`: from a spec to a trained network."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.cli.arguments.devices import add_devices, print_unused_gpus, refuse_second_launcher
from encapkeras.cli.arguments.spec_arguments import add_spec_arguments
from encapkeras.cli.arguments.trained_run import add_data_root, named_run, open_folder
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.errors import ArgumentError

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

EXAMPLES = (
    "encapkeras train quickstart",
    "encapkeras train mine.yaml --set train.epochs=3 --run-dir runs/short",
    "encapkeras train --resume latest",
    "encapkeras train encapnet_cifar10 --devices 0,2",
)
PAGE = "train.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `encapkeras train`."""
    add_spec_arguments(parser, optional=True)
    parser.add_argument(
        "--run-dir", metavar="DIR", help="folder for everything that the run writes (runs/NAME/DATE_TIME)"
    )
    add_data_root(parser)
    add_devices(parser)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--overwrite", action="store_true", help="replace the run that is already in the run folder")
    choice.add_argument(
        "--resume",
        metavar="DIR",
        help="resume the run in this folder, with its own spec if none is given; start it there if the folder is empty",
    )


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec with its overrides, if one is given."""
    return [(arguments.spec, arguments.overrides)] if arguments.spec is not None else []


def run(arguments: argparse.Namespace) -> int:
    """Train the network of a spec, or resume its run."""
    from encapkeras.distribution import finish, initialize
    from encapkeras.distribution.processes import propagate_errors, run_on_first
    from encapkeras.training import train
    from encapkeras.training.memory import keep_freed_memory
    from encapkeras.training.train import LONGEST_WAIT

    processes = initialize(LONGEST_WAIT)
    with propagate_errors():
        refuse_second_launcher(arguments)
        keep_freed_memory()
    if arguments.resume is not None:
        arguments.resume = run_on_first(lambda: named_run(arguments.resume))
    with propagate_errors():
        spec = _spec_of(arguments)
    if processes.is_first:
        print_problems(spec.warnings)
        if processes.count == 1:
            print_unused_gpus(arguments)
    with warnings.catch_warnings():
        for problem in spec.warnings:  # loading the data would say the same once more
            warnings.filterwarnings("ignore", re.escape(problem.message))
        if arguments.resume is not None:
            train(spec, run_dir=arguments.resume, resume=True)
        else:
            train(spec, run_dir=arguments.run_dir, overwrite=arguments.overwrite)
    finish()
    return 0


def _spec_of(arguments: argparse.Namespace) -> Spec:
    from encapkeras.spec.load import load_spec

    if arguments.spec is None and arguments.resume is None:
        raise ArgumentError("train needs a spec: a file, or the name of one that `encapkeras specs` lists")
    if arguments.resume is not None and arguments.run_dir is not None and Path(arguments.run_dir) != arguments.resume:
        raise ArgumentError("--resume already names the run folder: leave out --run-dir")
    if arguments.spec is None:
        return open_folder(arguments.resume, arguments.data_root, arguments.overrides, only_places=False)[1]
    if arguments.data_root is not None:
        raise ArgumentError(
            "--data-root belongs to --resume without a spec. Of a spec, set the place: --set data.root=DIR"
        )
    return load_spec(arguments.spec, overrides=arguments.overrides)
