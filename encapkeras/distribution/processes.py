"""The processes of a training, and what they tell each other."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
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

from encapkeras.distribution.attempt import name_of_attempt
from encapkeras.errors import ArgumentError, DistributionError, EncapkerasError
from encapkeras.torch_internals import launcher_keeps_store, launcher_restarts

TIMEOUT = 600.0  # as torch's own with NCCL, and as long as torchrun waits for a machine
_Value = TypeVar("_Value")
_OF_GLOO = re.compile(r"gloo|[Cc]onnection (closed|reset|refused)|Broken pipe")


_launcher: Store | None = None  # torchrun's own store, which outlives the processes that it starts


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
        """Whether this process is the one that writes files and talks to the user."""
        return self.rank == 0


def initialize(timeout: float = TIMEOUT) -> Processes:
    """Connects this process with the others that torchrun started; one that was started alone remains alone.

    With GPUs each process takes the one of its `LOCAL_RANK`; they talk through NCCL, processors through gloo.

    Args:
        timeout: Seconds, above 0, that a process waits for another one before it ends with an error; more than any of
            them takes alone, between two steps, for example to write a state or an extra evaluation of your own.

    Returns:
        How many there are, and which this is. Calling it again changes nothing.

    Raises:
        ArgumentError: The timeout is not above 0, or not finite.
        DistributionError: A machine has more processes than GPUs, or torch.distributed cannot connect them.

    Example:
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
    # As Keras chooses its device; to ask it for a tensor would take memory of the first GPU in every process.
    on_gpu = torch.cuda.is_available() and os.environ.get("KERAS_TORCH_DEVICE", "cuda").startswith("cuda")
    if on_gpu:
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    patience = timedelta(seconds=timeout)
    try:
        store, rank, count = next(rendezvous("env://", timeout=patience))
        _launcher = store if launcher_keeps_store() else None
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=PrefixStore(name_of_attempt(store, rank, count, patience), store),
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
    """The processes that `initialize` has connected so far."""
    if not distributed.is_initialized():
        return Processes(0, 1)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def _take_gpu(local_rank: int) -> None:
    gpus, chosen = torch.cuda.device_count(), os.environ.get("KERAS_TORCH_DEVICE", "cuda")
    if ":" in chosen:
        raise DistributionError(
            f"each process takes the GPU of its own number, and {chosen} is one for all. Choose cuda, and with the "
            "environment variable CUDA_VISIBLE_DEVICES which GPUs there are."
        )
    if local_rank >= gpus:
        raise DistributionError(
            f"process {local_rank} of this machine has no GPU: there are {gpus}. Start torchrun with "
            f"--nproc-per-node={gpus}, or train on the processors with KERAS_TORCH_DEVICE=cpu."
        )
    torch.cuda.set_device(local_rank)


def finish() -> None:
    """Waits for the other processes and leaves them; does nothing in a process that is alone.

    Call it last: a process that ends while others still talk to it ends them with an error.
    """
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def gathered(numbers: list[int]) -> list[list[int]]:
    """The numbers of each process; all must have equally many."""
    own = torch.tensor(numbers)
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    return [each.tolist() for each in every]


def largest(number: int) -> int:
    """The largest number that a process gives; all must ask."""
    return max(each for [each] in gathered([number])) if connected().count > 1 else number


def sum_in_place(tensors: list[torch.Tensor]) -> None:
    """Replaces each tensor by the sum over processes, all in one message a dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for members in groups.values():
        flat = torch.cat([member.flatten() for member in members])
        distributed.all_reduce(flat)
        parts = flat.split([member.numel() for member in members])
        for member, part in zip(members, parts, strict=True):
            member.copy_(part.view_as(member))


def with_least(number: int) -> int:
    """The rank of the process that gives the smallest number, the first of equals; all must ask."""
    numbers = [each for [each] in gathered([number])] if connected().count > 1 else [number]
    return numbers.index(min(numbers))


def from_process(value: _Value, rank: int = 0) -> _Value:
    """The value of one process, the first by default, which can be pickled; all must ask."""
    if connected().count == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=rank)
    return values[0]


def by_first(action: Callable[[], _Value]) -> _Value:
    """What an action gives that the first process alone makes, as one that writes files; all must ask.

    Args:
        action: Its result can be pickled.

    Raises:
        EncapkerasError: As `failing_together`.
    """
    value: Any = None
    with failing_together():
        if connected().is_first:
            value = action()
    return from_process(value)  # type: ignore[no-any-return]


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Where one process fails inside, all end, so that none waits for it in vain; one tells why. All must come here.

    Inside the processes must not talk to each other.

    Raises:
        EncapkerasError: What this process raised, the first of those that failed.
        SystemExit: Another process raised one; with its exit code.

    Example:
        >>> with failing_together():
        ...     raise DistributionError("no such thing")
        Traceback (most recent call last):
        ...
        encapkeras.errors.DistributionError: no such thing
    """
    failure = None
    try:
        yield
    except EncapkerasError as error:
        failure = error
    if connected().count == 1:
        codes = [failure.exit_code if failure else 0]
    else:
        codes = [code for [code] in gathered([failure.exit_code if failure else 0])]
    first = next((rank for rank, code in enumerate(codes) if code), None)
    if failure and first == connected().rank:
        raise failure
    if first is not None:
        leave(codes[first])


def leave(code: int) -> NoReturn:
    """Ends this process when another one, which tells why, has done so: torchrun kills all once the first is gone.

    Args:
        code: The exit code.

    Raises:
        SystemExit: Always.
    """
    with contextlib.suppress(RuntimeError, distributed.DistError):
        gathered([code])  # ends when a connection does
    raise SystemExit(code)


@contextlib.contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Says in one line that another process has ended, instead of what torch says about its connection.

    Raises:
        DistributionError: It has.
    """
    try:
        yield
    except (RuntimeError, distributed.DistError) as error:
        told = re.sub(r"^\[\S+\] ", "", next(iter(str(error).strip().splitlines()), "")).partition(". ")[0]
        if connected().count == 1 or not (isinstance(error, distributed.DistError) or _OF_GLOO.search(str(error))):
            raise
        raise DistributionError(
            f"process {connected().rank} of {connected().count} has lost the others ({told}). One of them has "
            "ended, or its machine cannot be reached; what it said stands here too, or in its own log."
        ) from error


def forgets_when_restarted() -> bool:
    """Whether torchrun may start processes again that cannot know then what these remember."""
    return _launcher is None and launcher_restarts() > 0


def remember(name: str, value: str) -> None:
    """Has torchrun keep a value, also for processes that it starts again; nothing happens where it has no store."""
    if _launcher is not None:
        _launcher.set(f"encapkeras/{name}", value)


def remembered(name: str) -> str | None:
    """What `remember` was given since torchrun itself was started; None if nothing."""
    key = f"encapkeras/{name}"
    if _launcher is None or not _launcher.check([key]):
        return None
    return str(_launcher.get(key).decode())


def begin_alike(variables: list[keras.Variable]) -> None:
    """Gives variables and the random generators on the processor the first process' values."""
    with torch.no_grad():
        for variable in variables:
            distributed.broadcast(variable.value.data, src=0)
    state: tuple[Any, ...] = from_process((torch.get_rng_state(), np.random.get_state(), random.getstate()))
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
