"""How much memory a training needs at most."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

import torch

from encapkeras.training.held_interrupt import holding_back_ctrl_c

MIB = 2**20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory held at once from now on, beyond what is held now.

    On a GPU that is what torch allocates there. Otherwise it is what of this process lies in the machine's memory
    (resident set; Linux alone tells its peak), after memory that nobody uses any longer was given back to the system,
    so that a training is not spared what one before it has left.

    Example:
        >>> memory = PeakMemory()
        >>> ones = torch.ones(32, 2**20)
        >>> del ones
        >>> peak = memory.mebibytes(torch.device("cpu"))
        >>> peak is None or 120 < peak < 200
        True
    """

    def __init__(self) -> None:
        with holding_back_ctrl_c():
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._on_gpu = torch.cuda.memory_allocated()
        self._resident = _resident() if _give_back() and _forget_the_peak() else None

    def mebibytes(self, device: torch.device) -> float | None:
        """The peak in MiB; None where the system does not tell.

        Args:
            device: Where the training was.
        """
        if device.type == "cuda":
            return (torch.cuda.max_memory_allocated() - self._on_gpu) / MIB
        peak = _resident("VmHWM")
        return None if self._resident is None or peak is None else (peak - self._resident) / MIB


def _give_back() -> bool:
    """Gives freed memory back to the system; whether that can be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc; no such call on Windows
        return False
    return True


def _forget_the_peak() -> bool:
    """Makes the kernel count the peak from now; whether it lets us."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident(which: str = "VmRSS") -> int | None:
    """Resident memory in bytes, now or at its peak; None where the system does not tell."""
    try:
        found = re.search(rf"^{which}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
