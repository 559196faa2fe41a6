"""Work shared out to processes; the results come back in order."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from encapkeras.errors import DataError, environment_number
from encapkeras.torch_internals import end_workers

Key = TypeVar("Key")
Made = TypeVar("Made")

MOST_BY_DEFAULT = 8

_RUNNING: set[Any] = set()  # keeps those that nothing else refers to, so that they can be ended in an orderly way


def default_workers() -> int:
    """Return how many processor cores this process may use, at most 8; processes of torchrun share them."""
    sharing = max(1, environment_number("LOCAL_WORLD_SIZE", 1))
    return min(max(1, usable_cores() // sharing), MOST_BY_DEFAULT)


def usable_cores() -> int:
    """Return how many processor cores this process may use, with all others that share them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(make: Callable[[Key], Made], keys: Sequence[Key], workers: int) -> Generator[Made, None, None]:
    """Yield what `make` returns for each key, in their order, made ahead in other processes; 0: in this one."""
    if workers == 0 or len(keys) < 2:
        yield from map(make, keys)
        return
    yield make(keys[0])  # in this process: a caller that wants only the first starts no others
    results = _started(make, keys[1:], min(workers, len(keys) - 1))
    try:
        for left in range(len(keys) - 2, -1, -1):
            result = _next(results)
            if left == 0:  # before the last is yielded: no more may be asked for
                _end(results)
            yield result
    finally:
        _end(results)


def _started(make: Callable[[Key], Made], keys: Sequence[Key], workers: int) -> Any:
    with warnings.catch_warnings():
        # More processes than cores are the user's wish; and forked processes do not need the threads that they lack.
        warnings.filterwarnings("ignore", "This DataLoader will create|This process .* is multi-threaded")
        results = iter(
            DataLoader(
                _Making(make),
                batch_size=None,
                sampler=keys,
                num_workers=workers,
                worker_init_fn=_leave_signals_to_the_main_process,
                generator=torch.Generator(),  # else it would draw from the global one
                # As a forked process imports nothing, a user's script needs no guard against being run twice.
                multiprocessing_context="fork" if sys.platform == "linux" else None,
            )
        )
    _RUNNING.add(results)
    atexit.unregister(_end_all)
    atexit.register(_end_all)  # last, so that it runs first: before others wait for processes that nobody ends
    return results


def _end(results: Any) -> None:
    """End the processes, unless that is done: left to the garbage collector, it could take many seconds."""
    if results in _RUNNING:
        _RUNNING.remove(results)
        end_workers(results)


def _end_all() -> None:
    for results in list(_RUNNING):
        _end(results)


def _next(results: Iterator[Any]) -> Any:
    try:
        result = next(results)
    except (RuntimeError, EOFError, ConnectionError) as error:
        # The latter two if the process is killed while it hands a batch over. What `make` raises has the same type as
        # in its process, and a text of torch's before its own.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if str(error).startswith("Caught "):
            raise
        reason = " ".join(str(error).split()) or "it closed its connection"
        raise DataError(
            f"a process that decodes images ended: {reason.rstrip('.')}. There may be too little memory: set "
            "data.workers to fewer processes, or to 0 for none."
        ) from error
    if isinstance(result, DataError):
        raise result
    return result


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ignore Ctrl-C, and what a queue sends to all processes alike: a training ends its step first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Making(Dataset[Any], Generic[Key, Made]):
    """A data set whose keys are not numbers, but all that a result depends on."""

    def __init__(self, make: Callable[[Key], Made]) -> None:
        self._make = make

    def __getitem__(self, key: Key) -> Made | DataError:
        try:
            return self._make(key)
        except DataError as error:  # as a value: torch would put its traceback into the message
            return error
