"""Ctrl-C at a moment when Python would lose it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def defer_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended: a finalizer would print and forget a `KeyboardInterrupt`."""
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread alone
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    if received:
        signal.raise_signal(signal.SIGINT)
