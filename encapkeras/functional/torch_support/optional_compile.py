"""Functions that torch.compile may translate, where a training asks for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from encapkeras.errors import TrainingError
from encapkeras.torch_internals import limited_recompiles

_SHAPES = 64  # for which torch translates a function, before it leaves it as it is: layers of all sizes share it

_Function = TypeVar("_Function", bound=Callable[..., Any])
_wanted = False  # one training at a time is made in a process


def compilable(function: _Function) -> _Function:
    """Decorator: inside of `compiling`, what torch.compile makes of the function takes its place."""

    @functools.cache
    def translated() -> Callable[..., Any]:
        return torch.compile(function)

    @functools.wraps(function)
    def either(*arguments: Any, **named: Any) -> Any:
        if not _wanted or torch.compiler.is_compiling():
            return function(*arguments, **named)
        return translated()(*arguments, **named)

    return either  # type: ignore[return-value]


@contextlib.contextmanager
def compiling(wanted: bool = True) -> Iterator[None]:
    """Has squash, batch norm with squash, dynamic and EM routing translated by torch.compile, at their first calls.

    It takes seconds to minutes for each shape; torch keeps the translations on the disk. Results differ from those
    without in the last digits.

    Args:
        wanted: False: nothing changes.

    Example:
        >>> with compiling(False):
        ...     float(compilable(torch.sin)(torch.zeros(())))
        0.0
    """
    global _wanted
    if not wanted:
        yield
        return
    before, _wanted = _wanted, True
    try:
        with limited_recompiles(_SHAPES):
            yield
    finally:
        _wanted = before


def check_compiler(device: torch.device) -> None:
    """Checks, with a function of one operation, that torch.compile finds what it needs; takes some seconds at first.

    Args:
        device: Where it is to be computed.

    Raises:
        TrainingError: It does not; the message says what it needs.
    """
    needs = "Triton and a C compiler such as gcc" if device.type == "cuda" else "a C++ compiler such as g++"
    try:
        torch.compile(_one_operation)(torch.ones(64, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        told = [line for line in str(error).splitlines() if line.strip()]
        raise TrainingError(
            f"train.compile needs {needs}, and torch.compile failed with: {told[0] if told else error!r}. Install it "
            "(CXX names another C++ compiler), or remove train.compile: it only saves time."
        ) from error


def _one_operation(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.sin() * 2
