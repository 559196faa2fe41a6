"""The processes of a training: how they connect, exchange values, and end together."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import keras
import numpy as np
import torch
from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from encapkeras.distribution.attempt import agree_on_attempt
from encapkeras.errors import ArgumentError, DistributionError, EncapkerasError, environment_number, launched_with
from encapkeras.torch_internals import launcher_keeps_store, launcher_restarts

TIMEOUT = 600.0  # as torch's own with NCCL, and as long as torchrun waits for a machine
_Value = TypeVar("_Value")
_OF_GLOO = re.compile(r"gloo|[Cc]onnection (closed|reset|refused)|Broken pipe")


# Errors with which processes end without a message to the others: these know already, or notice it themselves.
_final: weakref.WeakSet[EncapkerasError] = weakref.WeakSet()

_launcher: Store | None = None  # torchrun's own store, which outlives the processes that torchrun starts


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Attributes:
        rank: Of this process, from 0.
        count: Of all.
    """

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0


def initialize(timeout: float = TIMEOUT) -> Processes:
    """Connect this process with the others that torchrun started; a process that was started alone remains alone.

    With GPUs each process takes the one of its `LOCAL_RANK`, and they communicate by NCCL; without GPUs by gloo.

    Args:
        timeout: Seconds, above 0, that a process waits for another before it ends with an error. It must be longer
            than any process works alone between two steps, for example to write a state.

    Returns:
        How many there are, and which this is. Calling it again changes nothing.

    Raises:
        ArgumentError: The timeout is not above 0, or not finite.
        DistributionError: A machine has more processes than GPUs, or torch.distributed cannot connect them.

    Examples:
        >>> initialize()
        Processes(rank=0, count=1)
    """
    global _launcher
    if not 0 < timeout < math.inf:
        raise ArgumentError(f"timeout must be a finite number of seconds above 0; received {timeout}")
    if distributed.is_initialized():
        return connected()
    if not distributed.is_torchelastic_launched() and "WORLD_SIZE" not in os.environ:
        return Processes(0, 1)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        environment_number(name, 0)
    # As Keras chooses its device; a tensor of Keras would take memory of the first GPU in every process.
    on_gpu = torch.cuda.is_available() and os.environ.get("KERAS_TORCH_DEVICE", "cuda").startswith("cuda")
    if on_gpu:
        _take_gpu(environment_number("LOCAL_RANK", 0))
    patience = timedelta(seconds=timeout)
    try:
        store, rank, count = next(rendezvous("env://", timeout=patience))
        _launcher = store if launcher_keeps_store() else None
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=PrefixStore(agree_on_attempt(store, rank, count, patience), store),
            rank=rank,
            world_size=count,
            timeout=patience,
        )
    except (ValueError, RuntimeError, TimeoutError, distributed.DistError) as error:
        raise DistributionError(
            f"the processes cannot be connected: {error}. Start them with torchrun, which sets MASTER_ADDR, "
            "MASTER_PORT, RANK and WORLD_SIZE; without those this process trains alone."
        ) from error
    return connected()


def connected() -> Processes:
    """Return the processes that `initialize` has connected so far."""
    if not distributed.is_initialized():
        return Processes(0, 1)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def _take_gpu(local_rank: int) -> None:
    gpus, chosen = torch.cuda.device_count(), os.environ.get("KERAS_TORCH_DEVICE", "cuda")
    if ":" in chosen:
        raise DistributionError(
            f"each process takes the GPU with its number, but KERAS_TORCH_DEVICE={chosen} is one GPU for all. Set it "
            "to cuda, and choose the GPUs with the environment variable CUDA_VISIBLE_DEVICES."
        )
    if local_rank >= gpus:
        raise DistributionError(
            f"process {local_rank} of this machine has no GPU: there are {gpus}. Start torchrun with "
            f"--nproc-per-node={gpus}, or train on the processors with KERAS_TORCH_DEVICE=cpu."
        )
    torch.cuda.set_device(local_rank)


def finish() -> None:
    """Wait for the other processes and disconnect; nothing happens in a process that is alone.

    Call it last: a process that ends while others still communicate with it ends them with an error.
    """
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def all_gather(numbers: list[int]) -> list[list[int]]:
    """Return the numbers of each process; all must call it, with equally many."""
    own = torch.tensor(numbers)
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    return [each.tolist() for each in every]


def from_each(number: int) -> list[int]:
    """Return the number of each process; all must call it."""
    return [each for [each] in all_gather([number])] if connected().count > 1 else [number]


def all_reduce_max(number: int) -> int:
    """Return the largest number of all processes; all must call it."""
    return max(from_each(number))


def all_reduce_sum(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its sum over processes, with one message for each dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for members in groups.values():
        flat = torch.cat([member.flatten() for member in members])
        distributed.all_reduce(flat)
        parts = flat.split([member.numel() for member in members])
        for member, part in zip(members, parts, strict=True):
            member.copy_(part.view_as(member))


def rank_of_least(number: int) -> int:
    """Return the rank of the process with the smallest number, the first of equals; all must call it."""
    numbers = from_each(number)
    return numbers.index(min(numbers))


def broadcast(value: _Value, rank: int = 0) -> _Value:
    """Return the value of one process, which must be picklable; all must call it."""
    if connected().count == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=rank)
    return values[0]


def run_on_first(action: Callable[[], _Value]) -> _Value:
    """Run an action in the first process alone, which all must call; return its result, picklable, in all."""
    value: Any = None
    with propagate_errors():
        if connected().is_first:
            value = action()
    return broadcast(value)  # type: ignore[no-any-return]


@contextlib.contextmanager
def propagate_errors() -> Iterator[None]:
    """End all processes where one fails inside, so that none waits for it; all must enter this block."""
    # The first that failed raises its error, the others SystemExit with its exit code. Inside, processes may only
    # communicate where all enter another `propagate_errors`, or within `report_lost_processes`.
    failure = None
    try:
        yield
    except EncapkerasError as error:
        if error in _final:
            raise
        failure = error
    codes = from_each(failure.exit_code if failure else 0)
    first = next((rank for rank, each in enumerate(codes) if each), None)
    if failure and first == connected().rank:
        _final.add(failure)
        raise failure
    if first is not None:
        exit_silently(codes[first])


def exit_silently(code: int) -> NoReturn:
    """End this process after another, which prints the reason, has ended: torchrun kills all once the first is gone."""
    with contextlib.suppress(RuntimeError, distributed.DistError):
        all_gather([code])  # ends when a connection does
    raise SystemExit(code)


@contextlib.contextmanager
def report_lost_processes() -> Iterator[None]:
    """Raise a `DistributionError` of one line, instead of torch's text, when another process has ended."""
    try:
        yield
    except EncapkerasError as error:
        _final.add(error)  # passes through a `propagate_errors` around this: the others notice that this one has ended
        raise
    except (RuntimeError, distributed.DistError) as error:
        reason = re.sub(r"^\[\S+\] ", "", next(iter(str(error).strip().splitlines()), "")).partition(". ")[0]
        if connected().count == 1 or not (isinstance(error, distributed.DistError) or _OF_GLOO.search(str(error))):
            raise
        if launched_with() and not connected().is_first:  # the first says so, and the launcher which one has ended
            exit_silently(DistributionError.exit_code)
        lost = DistributionError(
            f"process {connected().rank} of {connected().count} has lost the others ({reason}). One of them has "
            "ended, or its machine cannot be reached; its own message is above, or in its own log."
        )
        _final.add(lost)
        raise lost from error


def restarts_lose_state() -> bool:
    """Return whether torchrun may start processes again without a store that keeps `set_launcher_value`."""
    return _launcher is None and launcher_restarts() > 0


def set_launcher_value(name: str, value: str) -> None:
    """Store a value with torchrun, also for processes that it starts again; nothing happens where it has no store."""
    if _launcher is not None:
        _launcher.set(f"encapkeras/{name}", value)


def launcher_value(name: str) -> str | None:
    """Return the value that `set_launcher_value` has stored since torchrun was started; None if there is none."""
    key = f"encapkeras/{name}"
    if _launcher is None or not _launcher.check([key]):
        return None
    return str(_launcher.get(key).decode())


def broadcast_state(variables: list[keras.Variable]) -> None:
    """Copy variables and the states of the random generators on the processor from the first process to all."""
    with torch.no_grad():
        for variable in variables:
            distributed.broadcast(variable.value.data, src=0)
    state: tuple[Any, ...] = broadcast((torch.get_rng_state(), np.random.get_state(), random.getstate()))
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
