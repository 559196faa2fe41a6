"""Which kernels run: ENCAPKERAS_KERNELS=auto, torch, numba or triton.

auto: numba's on CPUs where numba is installed, torch's operations elsewhere. numba, triton: those, or an error where
they cannot run. torch: torch's operations alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced

VARIABLE = "ENCAPKERAS_KERNELS"
CHOICES = ("auto", "torch", "numba", "triton")

_started_in: int | None = None  # the process in which numba's threads have started
_chosen: ContextVar[str | None] = ContextVar("chosen", default=None)


def chosen_kernels() -> str:
    """Return the choice: that of `use_kernels`, or else of the environment.

    Raises:
        ArgumentError: The environment variable has another value.
    """
    choice = _chosen.get() or os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise ArgumentError(f"{VARIABLE} must be one of {', '.join(CHOICES)}; received {choice!r}")
    return choice


@contextlib.contextmanager
def use_kernels(choice: str) -> Iterator[None]:
    """Use these kernels inside, whatever the environment says.

    Raises:
        ArgumentError: It is none of the choices.

    Examples:
        >>> with use_kernels("torch"):
        ...     chosen_kernels()
        'torch'
    """
    token = _chosen.set(choice)
    try:
        chosen_kernels()
        yield
    finally:
        _chosen.reset(token)


def runs_numba(tensor: torch.Tensor) -> bool:
    """Return whether numba's kernels are chosen, fit this tensor, and work.

    Warns once where numba is installed and broken.
    """
    fits = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
    if not fits or chosen_kernels() not in ("auto", "numba") or is_traced():
        return False
    if not has_values(tensor):  # an estimate of what a step keeps: not worth a compilation
        return importlib.util.find_spec("numba") is not None
    if _started_in not in (None, os.getpid()):  # numba ends processes forked from one whose threads it has started
        return False
    return _numba_works(tensor.dtype, chosen_kernels() == "numba")


def runs_triton(tensor: torch.Tensor) -> bool:
    """Return whether Triton's kernels are chosen and fit this tensor: on a GPU, or in Triton's interpreter."""
    if chosen_kernels() != "triton" or not has_values(tensor):
        return False
    if importlib.util.find_spec("triton") is None:
        raise ArgumentError(f"{VARIABLE}=triton needs Triton, which comes with torch's builds for CUDA")
    return tensor.device.type == "cuda" or bool(os.environ.get("TRITON_INTERPRET"))


def kernels_in_words(device: str) -> str:
    """Return which kernels run on a device, such as `numba 0.63.1`, for the note of a training."""
    if device == "cuda" and chosen_kernels() == "triton":
        return f"triton {importlib.metadata.version('triton')}"
    if device == "cpu" and runs_numba(torch.empty(1)):
        return f"numba {importlib.metadata.version('numba')}"
    return "torch"


@functools.cache
def _numba_works(dtype: torch.dtype, demanded: bool) -> bool:
    global _started_in
    if importlib.util.find_spec("numba") is None:
        if demanded:
            raise ArgumentError(f"{VARIABLE}=numba needs numba: pip install 'encapkeras[fast]'")
        return False
    try:
        compiler, module = (
            importlib.import_module(f"encapkeras.functional.kernels.numba_{name}") for name in ("compiler", "steps")
        )
        _started_in = os.getpid()
        compiler.compile_kernels(module, dtype)
    except Exception as error:  # whatever a broken installation raises: torch's operations are still there
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
        if demanded:
            raise ArgumentError(f"{VARIABLE}=numba: its kernels cannot be compiled ({reason})") from error
        warnings.warn(
            f"numba is installed but its kernels cannot be used ({reason}): torch's operations run in their place, "
            f"with the same results, slower. {VARIABLE}=torch silences this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
