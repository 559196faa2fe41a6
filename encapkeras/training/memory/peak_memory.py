"""How much memory a training needs at most."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

import psutil
import torch

from encapkeras.training.held_interrupt import defer_ctrl_c

MIB = 2**20
# psutil neither reports the peak of a process on Linux nor resets it.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory held at once from now on, beyond what is held now: torch's on a GPU, else the process'."""

    def __init__(self) -> None:
        with defer_ctrl_c():
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._on_gpu = torch.cuda.memory_allocated()
        # So that a training is not spared what an earlier one has left.
        counts = _return_freed_memory() and _reset_peak()
        self._resident: int | None = psutil.Process().memory_info().rss if counts else None

    def mebibytes(self, device: torch.device) -> float | None:
        """Return the peak of a training on this device in MiB; None where the system does not report it."""
        if device.type == "cuda":
            return (torch.cuda.max_memory_allocated() - self._on_gpu) / MIB
        peak = _resident_peak()
        return None if self._resident is None or peak is None else (peak - self._resident) / MIB


def _return_freed_memory() -> bool:
    """Return freed memory to the system; whether that is possible."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc; no such call on Windows
        return False
    return True


def _reset_peak() -> bool:
    """Have the kernel measure the peak from now on; whether it may be."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
