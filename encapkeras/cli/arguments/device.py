"""`--device`: where a command computes. Keras decides that when it is imported, so this comes before."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from encapkeras.errors import ArgumentError, printable

KERAS_READS = "KERAS_TORCH_DEVICE"  # when it is imported


class TakesOptions(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declare an option."""


def add_device(parser: TakesOptions) -> None:
    """Declare `--device DEVICE`, which arrives as `run_on`; None for what Keras finds."""
    parser.add_argument(
        "--device",
        dest="run_on",
        metavar="DEVICE",
        help="where to compute: cpu, cuda, cuda:1 (the second GPU) or mps (a GPU if there is one)",
    )


@contextlib.contextmanager
def use_device(device: str | None) -> Iterator[None]:
    """Make Keras, and torch for `cuda`, compute on a device; None leaves it to Keras."""
    if device is None:
        yield
        return
    check_device(device)
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(torch.device(device).index or 0)
    before = os.environ.get(KERAS_READS)
    os.environ[KERAS_READS] = device  # other threads and processes follow it too
    try:
        if "keras" in sys.modules:  # it has decided already
            import keras

            with keras.device(device):
                yield
        else:
            yield
    finally:
        os.environ.pop(KERAS_READS)
        if before is not None:
            os.environ[KERAS_READS] = before


def check_device(device: str) -> None:
    """Raise an `ArgumentError` if this machine does not have a device, or there is none of that name anywhere."""
    found = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,9}))?", device)
    if not found:
        hint = " A GPU of NVIDIA or AMD is cuda." if "gpu" in device.lower() else ""
        raise ArgumentError(
            f"--device must be cpu, cuda, cuda:N or mps; received '{printable(device)}'.{hint} This machine has "
            f"{shown_devices(devices())}"
        )
    import torch

    if device == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError(
            f"--device mps: torch finds no Apple GPU. This machine has {shown_devices(devices())}; choose one of "
            "these, or leave out --device"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ArgumentError(
            f"--device {device}: torch finds no CUDA GPU. This machine has {shown_devices(devices())}; choose one of "
            f"these, or leave out --device. {advice_without_cuda()}"
        )
    if found[1] and int(found[1]) >= torch.cuda.device_count():
        raise ArgumentError(
            f"--device {device}: there is no GPU with that number; they count from 0. This machine has "
            f"{shown_devices(devices())}; choose one of these, or leave out --device"
        )


def advice_without_cuda() -> str:
    """Return what to do where torch should find a GPU, and does not."""
    import torch

    why = (
        f"this torch ({torch.__version__}) was built without CUDA: install one with CUDA (pytorch.org/get-started)"
        if torch.version.cuda is None and torch.version.hip is None
        else "check the driver with nvidia-smi, and the environment variable CUDA_VISIBLE_DEVICES"
    )
    return f"If it should have a GPU, {why}"


def devices() -> dict[str, str]:
    """Return the devices of this machine as `--device` takes them, with the names of GPUs."""
    import torch

    found = {"cpu": ""}
    if torch.cuda.is_available():
        found |= {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = ""
    return found


def torch_device() -> str:
    """Return the kind of device for code that needs no Keras: that of `--device`, or a GPU if there is one."""
    import torch

    chosen = os.environ.get(KERAS_READS)
    if chosen is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if chosen.startswith("cuda") else chosen  # its number is set already


def print_device() -> None:
    """Say on stderr where it was calculated; stdout is for results."""
    import keras

    device = keras.ops.ones(()).device
    name = ""
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    print(f"computed on {shown_devices({str(device): name})}", file=sys.stderr)


def shown_devices(found: dict[str, str]) -> str:
    """Return devices with their names for reading."""
    return ", ".join(f"{device} ({name})" if name else device for device, name in found.items())
