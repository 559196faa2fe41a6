"""What a person reads when the memory is not enough."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch

from encapkeras.errors import TrainingError

# torch has an exception of its own for the GPU alone; on the CPU it raises a RuntimeError with one of these.
_SIGNS = ("can't allocate memory", "not enough memory", "DefaultCPUAllocator", "out of memory")
_BOLD = r"\x1b\[\d*m"


@contextlib.contextmanager
def saying_how_to_save_memory(
    advice: str
    | Callable[[], str] = "Set data.batch_size or data.image_size to less, make the network smaller, or free memory.",
) -> Iterator[None]:
    """Turns any way of running out of memory into a `TrainingError` that says what to do.

    Args:
        advice: What to do, or what makes that text of what can then be measured.

    Example:
        >>> with saying_how_to_save_memory():
        ...     torch.empty(2**50)
        Traceback (most recent call last):
        ...
        encapkeras.errors.TrainingError: out of memory...
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        signs = [line for line in str(error).splitlines() if any(sign in line for sign in _SIGNS)]
        if not signs and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        # Keras puts lines of its own before it, and makes it bold.
        told = f" ({re.sub(_BOLD, '', signs[0]).strip()})" if signs else ""
        text = advice if isinstance(advice, str) else advice()
        raise TrainingError(f"out of memory{told}. {text}") from error
