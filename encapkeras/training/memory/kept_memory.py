"""Freed memory stays with the process, so that the next step does not fault it in again, page by page."""

from __future__ import annotations

import ctypes
import os
from pathlib import PurePath
from typing import Any

from encapkeras.errors import ArgumentError

VARIABLE = "ENCAPKERAS_KEEP_MEMORY"
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h
# Settings of glibc. If the user has made one of them, nothing is changed.
_SET_BY_USER = ("mmap_max", "mmap_threshold", "top_pad", "trim_threshold")

_is_kept = False


class _Symbol(ctypes.Structure):
    """Where a function is: `Dl_info` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on, where glibc allocates it; elsewhere nothing happens.

    glibc gives freed blocks of tensors back to the system, which hands them out again page by page in the next step.
    Kept memory is free for the process itself, but not for others; the peak may grow by a tenth. It cannot be undone.
    `encapkeras train`, `compare`, `evaluate` and `bench` call it; in your own script, call it before the first step.

    Nothing happens if ENCAPKERAS_KEEP_MEMORY=0, if another malloc is loaded, or if glibc's own environment variables
    (such as `MALLOC_TRIM_THRESHOLD_`, or these tunables in `GLIBC_TUNABLES`) say what is kept.

    Returns:
        Whether freed memory is kept now.

    Raises:
        ArgumentError: The environment variable has another value than 0 or 1.

    Examples:
        >>> keep_freed_memory() == freed_memory_is_kept()
        True
    """
    global _is_kept
    if _is_wanted() and not _is_kept and not _is_set_by_user():
        glibc = _allocating_glibc()
        # Without blocks of their own (mmap), all freed memory is in the heap, whose end is then never cut off.
        _is_kept = glibc is not None and bool(glibc.mallopt(_MMAP_MAX, 0) and glibc.mallopt(_TRIM_THRESHOLD, -1))
    return _is_kept


def freed_memory_is_kept() -> bool:
    """Return whether `keep_freed_memory` has taken effect in this process."""
    return _is_kept


def _is_wanted() -> bool:
    choice = os.environ.get(VARIABLE) or "1"
    if choice not in ("0", "1"):
        raise ArgumentError(
            f"{VARIABLE} must be 1, to keep freed memory for the next step, or 0, to return it to the system; "
            f"received {choice!r}. Set it to one of these, or unset it, which is 1."
        )
    return choice == "1"


def _is_set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}=" in tunables for name in _SET_BY_USER)


def _allocating_glibc() -> Any:
    """Return the C library if it is glibc and its malloc is the one in use, which a preloaded library may replace."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # there is none in musl, macOS and Windows
        symbol = _Symbol()
        found = library.dladdr(ctypes.cast(library.malloc, ctypes.c_void_p), ctypes.byref(symbol))
        return library if found and _is_glibc(symbol.file) else None
    except (AttributeError, OSError, TypeError):  # TypeError: Windows takes no None
        return None


def _is_glibc(file: bytes | None) -> bool:
    """Return whether a file is glibc's; before 2.34 it could be named `libc-2.31.so`."""
    name = PurePath(os.fsdecode(file or b"")).name
    return name == "libc.so.6" or name.startswith("libc-2.")
