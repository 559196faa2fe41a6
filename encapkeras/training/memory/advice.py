"""How much memory a training takes by estimate, how much there is, and which batch would fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from encapkeras.model.spec_model import SpecModel
from encapkeras.summary.cost import Device, batch_size_of, memory_estimate
from encapkeras.text import memory_text

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def advice_for_training(model: SpecModel, run: Path) -> Callable[[], str]:
    """Return a function that makes, once it is needed, the advice for a training that ran out of memory."""

    def advice() -> str:
        batch_size = batch_size_of(model.examined.spec)
        estimate, largest = _by_estimate(model, batch_size)
        return (
            f"{estimate} {_smaller(batch_size, largest)} A run keeps its batch size: start another one with it, or, "
            f"with more memory, continue with --resume {run}."
        )

    return advice


def advice_for_measuring(model: SpecModel, batch_size: int) -> Callable[[], str]:
    """Return the same for a network that is measured, which takes less."""

    def advice() -> str:
        estimate, _ = _by_estimate(model, batch_size)
        return (
            f"{estimate} Measuring takes less than that. Free memory, set data.batch_size in the run's spec.yaml to "
            "less, or use other memory with --device."
        )

    return advice


def largest_batch(small: int, large: int, batch_size: int, available: int) -> int:
    """Return the largest batch that fits: one image takes `small` bytes, `batch_size` (at least 2) take `large`."""
    for_each = max((large - small) / (batch_size - 1), 1)
    return max(0, int((available - small) // for_each) + 1)


def _by_estimate(model: SpecModel, batch_size: int) -> tuple[str, int | None]:
    """Describe what is needed and what is available; return the largest batch that would fit too, if it is known."""
    device = model.weights[0].value.device
    kind: Device = "cuda" if device.type == "cuda" else "cpu"
    beside = max(2, batch_size)
    small, large = (memory_estimate(model.examined, size, kind).total for size in (1, beside))
    available = available_bytes(device)
    in_float32 = "" if model.precision == "float32" else ", were it in float32"
    needed = (
        f"By the estimate of 'encapkeras show' a training step of '{model.name}' holds at least "
        f"{memory_text(large if batch_size > 1 else small)} with data.batch_size {batch_size}{in_float32}"
    )
    if available is None:
        return f"{needed}.", None
    largest = largest_batch(small, large, beside, available)
    fits = f"batches of at most {largest:,} would fit" if largest else "not even a batch of one image would fit"
    return f"{needed}; {device} has {memory_text(available)} for it; {fits}.", largest


def _smaller(batch_size: int, largest: int | None) -> str:
    """Say what to set; the estimate is a lower bound, so that the batch is at least halved."""
    if batch_size == 1 or largest == 0:
        return "Set data.image_size to less, make the network smaller, or free memory."
    at_most = batch_size // 2 if largest is None else min(batch_size // 2, largest)
    chosen = 1 << (at_most.bit_length() - 1)
    return f"Training needs more for moments. Try --set data.batch_size={chosen}, a smaller network, or free memory."


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that this process could have on a device, its own included; None if that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    try:
        available: int = psutil.virtual_memory().available + psutil.Process().memory_info().rss
        limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    except (OSError, psutil.Error):
        return None
    # psutil reports the machine's memory, also in a container that may use less (Docker's --memory, Kubernetes, Slurm).
    return min(available, int(limit)) if limit.isdigit() else available
