"""Functions that torch.compile may translate, where a training asks for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from encapkeras.errors import TrainingError
from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.torch_internals import limit_recompiles

_SHAPES = 64  # for which torch translates a function, before it leaves it as it is: layers of all sizes share it

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compiling: ContextVar[bool] = ContextVar("compiling", default=False)


def compilable(function: _Function) -> _Function:
    """Decorate a function: inside of `enable_compile`, it is compiled by torch.compile."""

    @functools.cache
    def translated() -> Callable[..., Any]:
        return torch.compile(function)

    @functools.wraps(function)
    def either(*arguments: Any, **named: Any) -> Any:
        if is_traced() or not _compiling.get():  # in this order: compilers may not trace the second
            return function(*arguments, **named)
        return translated()(*arguments, **named)

    return either  # type: ignore[return-value]


@contextlib.contextmanager
def enable_compile(wanted: bool = True) -> Iterator[None]:
    """Have squash, batch norm with squash, dynamic and EM routing translated by torch.compile, at their first calls."""
    if not wanted:
        yield
        return
    token = _compiling.set(True)
    try:
        with limit_recompiles(_SHAPES):
            yield
    finally:
        _compiling.reset(token)


def check_compiler(device: torch.device) -> None:
    """Check, with a function of one operation, that torch.compile finds what it needs; takes some seconds at first."""
    needs = "Triton and a C compiler such as gcc" if device.type == "cuda" else "a C++ compiler such as g++"
    try:
        torch.compile(_one_operation)(torch.ones(64, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        reasons = [line for line in str(error).splitlines() if line.strip()]
        raise TrainingError(
            f"train.compile needs {needs}, and torch.compile failed with: {reasons[0] if reasons else error!r}. "
            "Install it (CXX names another C++ compiler), or remove train.compile: it only saves time."
        ) from error


def _one_operation(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.sin() * 2
