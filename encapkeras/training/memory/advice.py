"""How much memory a training takes by estimate, how much there is, and which batch would fit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from encapkeras.model.spec_model import SpecModel
from encapkeras.summary.cost import Device, batch_size_of, memory_estimate
from encapkeras.text import memory_text

_MEMORY, _LIMIT, _STATUS = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max"), Path("/proc/self/status")


def advice_for_training(model: SpecModel, run: Path) -> Callable[[], str]:
    """What makes, once it is needed, the advice for a training that ran out of memory.

    Args:
        model: The network.
        run: The run folder.
    """

    def advice() -> str:
        batch_size = batch_size_of(model.examined.spec)
        known, largest = _by_estimate(model, batch_size)
        return (
            f"{known} {_smaller(batch_size, largest)} A run keeps its batch size: begin another one with it, or, with "
            f"more memory, go on with --resume {run}."
        )

    return advice


def advice_for_measuring(model: SpecModel, batch_size: int) -> Callable[[], str]:
    """The same for a network that is measured, which takes less.

    Args:
        model: The network.
        batch_size: Images in a batch.
    """

    def advice() -> str:
        known, _ = _by_estimate(model, batch_size)
        return (
            f"{known} Measuring takes less than that. Free memory, set data.batch_size in the run's spec.yaml to less, "
            "or use other memory with --device."
        )

    return advice


def largest_batch(small: int, large: int, batch_size: int, available: int) -> int:
    """The largest batch that fits, given what a batch of one image and one of `batch_size` take.

    Memory grows by the same for each image: what does not grow is weights, gradients and the optimizer's moments.

    Args:
        small: Bytes of a batch of one image.
        large: Bytes of a batch of `batch_size` images.
        batch_size: At least 2.
        available: Bytes.

    Returns:
        Images; 0 if not even one fits.

    Example:
        >>> largest_batch(small=110, large=200, batch_size=10, available=155)
        5
    """
    for_each = max((large - small) / (batch_size - 1), 1)
    return max(0, int((available - small) // for_each) + 1)


def _by_estimate(model: SpecModel, batch_size: int) -> tuple[str, int | None]:
    """A sentence or two on what is needed and what is there, and the largest batch that would fit, if it is known."""
    device = model.weights[0].value.device
    kind: Device = "cuda" if device.type == "cuda" else "cpu"
    beside = max(2, batch_size)
    small, need = (memory_estimate(model.examined, size, kind).total for size in (1, beside))
    there = available_bytes(device)
    in_float32 = "" if model.precision == "float32" else ", were it in float32"
    known = (
        f"By the estimate of 'encapkeras show' a training step of '{model.name}' holds at least "
        f"{memory_text(need if batch_size > 1 else small)} with data.batch_size {batch_size}{in_float32}"
    )
    if there is None:
        return f"{known}.", None
    largest = largest_batch(small, need, beside, there)
    fits = f"batches of at most {largest:,} would fit" if largest else "not even a batch of one image would fit"
    return f"{known}; {device} has {memory_text(there)} for it, where {fits}.", largest


def _smaller(batch_size: int, largest: int | None) -> str:
    """What to set; the estimate is a lower bound, so that what it lets pass is at least halved."""
    if batch_size == 1 or largest == 0:
        return "Set data.image_size to less, make the network smaller, or free memory."
    at_most = batch_size // 2 if largest is None else min(batch_size // 2, largest)
    chosen = 1 << (at_most.bit_length() - 1)
    return f"Training needs more for moments. Try --set data.batch_size={chosen}, a smaller network, or free memory."


def available_bytes(device: torch.device) -> int | None:
    """Memory that this process could have on a device, what it holds already included; None if that is not known.

    Args:
        device: Where the network is.

    Example:
        >>> there = available_bytes(torch.device("cpu"))
        >>> there is None or there > 2**20
        True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    try:
        free = _kibibytes(_MEMORY, "MemAvailable") + _kibibytes(_STATUS, "VmRSS")
        limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    except (OSError, TypeError):  # another system than Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return min(free, int(limit)) if limit.isdigit() else free


def _kibibytes(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{file} does not tell {name}")
    return int(found[1]) * 1024
