"""`--device`: where a command calculates. Keras decides that when it is imported, so this comes before."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator

from encapkeras.errors import ArgumentError, printable

KERAS_READS = "KERAS_TORCH_DEVICE"  # when it is imported


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declares `--device DEVICE`, which arrives as `run_on`; None for what Keras finds."""
    parser.add_argument(
        "--device",
        dest="run_on",
        metavar="DEVICE",
        help="where to calculate: cpu, cuda, cuda:1 (the second GPU) or mps (found by itself)",
    )


@contextlib.contextmanager
def calculating_on(device: str | None) -> Iterator[None]:
    """Has Keras, and torch where it is told `cuda`, calculate on a device; None leaves it to Keras.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        ArgumentError: There is no such device here; the message tells which there are.

    Example:
        >>> import keras
        >>> with calculating_on("cpu"):
        ...     keras.ops.ones(2).device
        device(type='cpu')
    """
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
    """Checks that this machine has a device.

    Raises:
        ArgumentError: It has not, or there is no device of that name anywhere.

    Example:
        >>> check_device("gpu")
        Traceback (most recent call last):
        ...
        encapkeras.errors.ArgumentError: --device must be cpu, cuda, cuda:N or mps; received 'gpu'...
    """
    found = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,9}))?", device)
    if not found:
        hint = " A GPU of NVIDIA or AMD is cuda." if "gpu" in device.lower() else ""
        raise ArgumentError(
            f"--device must be cpu, cuda, cuda:N or mps; received '{printable(device)}'.{hint} This machine has "
            f"{_shown(devices())}"
        )
    import torch

    if device == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError(
            f"--device mps: torch finds no GPU of Apple here. This machine has {_shown(devices())}; choose of these, "
            "or leave out --device"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        why = (
            f"this torch, {torch.__version__}, is built without CUDA: install one with it (pytorch.org/get-started)"
            if torch.version.cuda is None and torch.version.hip is None
            else "look at the driver with nvidia-smi, and at the environment variable CUDA_VISIBLE_DEVICES"
        )
        raise ArgumentError(
            f"--device {device}: torch finds no CUDA GPU. This machine has {_shown(devices())}; choose of these, or "
            f"leave out --device. If it should have a GPU, {why}"
        )
    if found[1] and int(found[1]) >= torch.cuda.device_count():
        raise ArgumentError(
            f"--device {device}: there is no GPU of that number, they count from 0. This machine has "
            f"{_shown(devices())}; choose of these, or leave out --device"
        )


def devices() -> dict[str, str]:
    """The devices of this machine as `--device` takes them, with the names of GPUs.

    Example:
        >>> "cpu" in devices()
        True
    """
    import torch

    found = {"cpu": ""}
    if torch.cuda.is_available():
        found |= {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = ""
    return found


def torch_device() -> str:
    """The kind of device for code that needs no Keras: what `--device` gave, or a GPU if there is one.

    Example:
        >>> with calculating_on("cpu"):
        ...     torch_device()
        'cpu'
    """
    import torch

    chosen = os.environ.get(KERAS_READS)
    if chosen is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if chosen.startswith("cuda") else chosen  # its number is set already


def print_device() -> None:
    """Says on stderr where it was calculated; stdout stays what programs read."""
    import keras

    device = keras.ops.ones(()).device
    if device.type == "cuda":
        import torch

        print(f"calculated on {device} ({torch.cuda.get_device_name(device)})", file=sys.stderr)
    else:
        print(f"calculated on {device}", file=sys.stderr)


def _shown(found: dict[str, str]) -> str:
    return ", ".join(f"{device} ({name})" if name else device for device, name in found.items())
