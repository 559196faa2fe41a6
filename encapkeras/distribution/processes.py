"""The processes of a training, and what they tell each other."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import keras
import numpy as np
import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from encapkeras.distribution.attempt import name_of_attempt
from encapkeras.errors import ArgumentError, DistributionError

TIMEOUT = 600.0  # as torch's own with NCCL, and as long as torchrun waits for a machine
_Value = TypeVar("_Value")


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
    gpus = torch.cuda.device_count()
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


def from_first(value: _Value) -> _Value:
    """The first process' value, which can be pickled; all must ask."""
    if connected().count == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def begin_alike(variables: list[keras.Variable]) -> None:
    """Gives variables and the random generators on the processor the first process' values."""
    with torch.no_grad():
        for variable in variables:
            distributed.broadcast(variable.value.data, src=0)
    state: tuple[Any, ...] = from_first((torch.get_rng_state(), np.random.get_state(), random.getstate()))
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
