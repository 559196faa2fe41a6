"""How kernels are compiled by numba: once on a machine, kept in a cache for later processes."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numba
import torch

# Without nnan and ninf: a training must see what is not finite.
_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"},
}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel_part(function: _Function) -> _Function:
    """Decorate what a kernel calls."""
    return numba.njit(**_OPTIONS)(function)  # type: ignore[no-any-return]


def parallel_kernel(function: _Function) -> _Function:
    """Decorate a kernel, whose `prange` runs on many threads."""
    return numba.njit(parallel=True, **_OPTIONS)(function)  # type: ignore[no-any-return]


THREAD_SAFE = ("omp", "tbb")
"""Numba's layers of threads that may be called from several threads at once; its third one ends the process."""


@contextlib.contextmanager
def threads_of_torch() -> Iterator[None]:
    """Run kernels on as many threads as torch's operations."""
    before = numba.get_num_threads()
    wanted = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if wanted == before:
        yield
        return
    numba.set_num_threads(wanted)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def compile_kernels(module: Any, dtype: torch.dtype) -> None:
    """Run a module's kernels on a small problem, its `trial`: this compiles them, or reads them from the cache.

    Raises:
        OSError: The cache is another user's, or this machine has no threads for numba.
    """
    threads = torch.get_num_threads()
    try:
        _compile(module, dtype)
    finally:
        torch.set_num_threads(threads)  # the start of numba's threads sets that of OpenMP, which torch shares


def _compile(module: Any, dtype: torch.dtype) -> None:
    kernels = [value for value in vars(module).values() if isinstance(value, numba.core.registry.CPUDispatcher)]
    for kernel in kernels:
        check_cache(str(kernel.stats.cache_path))
    trial = module.trial(dtype)
    next(trial)  # one kernel, which tells whether they are in the cache
    if any(kernel.stats.cache_misses for kernel in kernels):
        _announce()
    for _ in trial:
        pass
    if numba.threading_layer() not in THREAD_SAFE:
        raise OSError("numba found neither OpenMP nor TBB: install libgomp1, or pip install tbb")


@functools.cache  # once in a process, and in one of those that train together
def _announce() -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    print("compiling kernels with numba, once on this machine (some 30 seconds)", file=sys.stderr, flush=True)


def check_cache(path: str) -> None:
    """Check that nobody else can put code into the cache.

    Raises:
        OSError: It is another user's, or everybody may write there.
    """
    if not hasattr(os, "getuid") or not os.path.exists(path):
        return
    status = os.stat(path)
    if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
        raise OSError(f"its cache {path} is another user's, or all may write there: set NUMBA_CACHE_DIR to another")
