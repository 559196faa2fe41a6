"""The error of a training or measuring that runs out of memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch

from encapkeras.errors import TrainingError

# torch has its own exception only for the GPU; on the CPU it raises a RuntimeError with one of these.
_SIGNS = ("can't allocate memory", "not enough memory", "DefaultCPUAllocator", "out of memory")
_BOLD = r"\x1b\[\d*m"


@contextlib.contextmanager
def explain_out_of_memory(
    advice: str
    | Callable[[], str] = "Set data.batch_size or data.image_size to less, make the network smaller, or free memory.",
) -> Iterator[None]:
    """Turn any way of running out of memory into a `TrainingError` with advice, or what `advice()` returns then."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        signs = [line for line in str(error).splitlines() if any(sign in line for sign in _SIGNS)]
        if not signs and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        # Keras puts lines before it, and makes it bold.
        details = f" ({re.sub(_BOLD, '', signs[0]).strip()})" if signs else ""
        text = advice if isinstance(advice, str) else advice()
        raise TrainingError(f"out of memory{details}. {text}") from error
