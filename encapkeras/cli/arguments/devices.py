"""`--devices` and `--processes`: on which GPUs, or in how many processes on the CPU, `train` computes."""

from __future__ import annotations

import argparse
import os
from typing import Any, NamedTuple

from encapkeras.cli.arguments.device import KERAS_READS, add_device, advice_without_cuda, devices, shown_devices
from encapkeras.errors import ArgumentError, launched_with, printable
from encapkeras.text import listed, quoted

ALL = "all"
OF_A_LAUNCHER = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE")  # set in the processes that torchrun, or a cluster, has started


class Launch(NamedTuple):
    """Processes that are to be started on this machine.

    Attributes:
        processes: How many.
        option: The option that asked for them, with its value.
        environment: What is set for them.
    """

    processes: int
    option: str
    environment: dict[str, str]


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Declare `--device`, `--devices` and `--processes`, of which one may be given."""
    choice: Any = parser.add_mutually_exclusive_group()  # takes arguments as a parser does
    add_device(choice)
    choice.add_argument(
        "--devices", metavar="GPUS", help="train on several GPUs, one process each: their numbers, such as 0,2; or all"
    )
    choice.add_argument("--processes", metavar="N", help="train in N processes on the CPU")


def wants_processes(arguments: argparse.Namespace) -> bool:
    """Return whether `--devices` or `--processes` is given, and this process is not one of those that they started."""
    given = (getattr(arguments, "devices", None), getattr(arguments, "processes", None))
    return given != (None, None) and not launched_with()


def read_devices(arguments: argparse.Namespace) -> Launch | None:
    """Return which processes to start. None: this one trains, on the device that `run_on` then names.

    Raises:
        ArgumentError: The machine does not have these devices, or not as many cores.
    """
    if not wants_processes(arguments) or any(name in os.environ for name in OF_A_LAUNCHER):
        return None
    if arguments.processes is not None:
        count = _count(arguments.processes)
        arguments.run_on = "cpu" if count == 1 else None
        option, variables = f"--processes {count}", {KERAS_READS: "cpu"}
    else:
        numbers = _numbers(arguments.devices)
        count = len(numbers)
        arguments.run_on = f"cuda:{numbers[0]}" if count == 1 else None
        option, variables = f"--devices {quoted(arguments.devices)}", {KERAS_READS: "cuda", **_visible(numbers)}
    return Launch(count, option, variables) if count > 1 else None


def refuse_second_launcher(arguments: argparse.Namespace) -> None:
    """Raise an `ArgumentError` if torchrun has started the processes already."""
    if wants_processes(arguments) and arguments.run_on is None:
        option = "--devices" if arguments.devices is not None else "--processes"
        found = next((name for name in OF_A_LAUNCHER if name in os.environ), OF_A_LAUNCHER[0])
        raise ArgumentError(
            f"{option} starts the processes itself, but torchrun, or a cluster, has started this one already (the "
            f"environment variable {found} is set). Leave out {option}, or start the command without torchrun."
        )


def print_unused_gpus(arguments: argparse.Namespace) -> None:
    """Say how to train on all GPUs, where one of several was taken and nobody has chosen it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count > 1 and arguments.run_on is None and KERAS_READS not in os.environ:
        print(f"this training uses 1 of {count} GPUs; --devices all trains on all of them, --devices 0,1 on these two")


def _count(given: str) -> int:
    from encapkeras.data.worker_processes import usable_cores

    cores = usable_cores()
    most = max(2, cores)
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= most):
        raise ArgumentError(
            f"--processes must be a whole number from 1 to {most}: this machine has cores for {cores}; received "
            f"'{printable(given)}'"
        )
    return int(given)


def _numbers(given: str) -> list[int]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = f"This machine has {shown_devices(devices())}"
    words = [word.strip() for word in given.split(",")]
    if given != ALL and not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise ArgumentError(
            f"--devices must be numbers of GPUs with commas between them, such as 0,2, or {ALL}; received "
            f"'{printable(given)}'. {here}"
        )
    if not count:
        raise ArgumentError(
            f"--devices {given}: torch finds no CUDA GPU. {here}; train on it with --processes 2, or leave out "
            f"--devices. {advice_without_cuda()}"
        )
    numbers = list(range(count)) if given == ALL else [int(word) for word in words]
    unknown = listed(dict.fromkeys(number for number in numbers if number >= count))
    if unknown:
        raise ArgumentError(
            f"--devices {given}: there is no GPU with the number {unknown}; they count from 0. {here}; choose GPUs "
            f"among these, or {ALL}"
        )
    if len(set(numbers)) < len(numbers):
        double = listed(dict.fromkeys(number for number in numbers if numbers.count(number) > 1))
        raise ArgumentError(f"--devices {given}: {double} is there twice; each process has a GPU of its own. {here}")
    return numbers


def _visible(numbers: list[int]) -> dict[str, str]:
    """Return the environment variable that shows these GPUs alone, of those that are visible here."""
    import torch

    of_amd = torch.version.hip is not None and "HIP_VISIBLE_DEVICES" in os.environ
    name = "HIP_VISIBLE_DEVICES" if of_amd else "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(name)
    names = visible.split(",") if visible else [str(number) for number in range(max(numbers) + 1)]
    return {name: ",".join(names[number].strip() for number in numbers)}
