"""What functions of a whole batch need where several processes share one: batch norm, and transport between samples.

Outside of `share_batch` nothing here does anything. The collectives can be differentiated: each process differentiates
its own share of the loss, and the gradients of all are summed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed


@dataclass(frozen=True)
class SharedBatch:
    """A batch of which each process holds some samples."""

    sizes: tuple[int, ...]  # samples of each process, in the order of their ranks; each at least 1
    rank: int  # of this process
    batch_norm: bool = True  # whether batch norms take statistics over the whole batch

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of the batch that each process holds; their sum is 1."""
        return tuple(size / sum(self.sizes) for size in self.sizes)

    def stacked(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stack the tensors `(...)` of all processes, `(processes, ...)`; of one shape. Differentiable once."""
        gathered: torch.Tensor = _Stack.apply(tensor, self.rank, len(self.sizes))
        return gathered

    def joined(self, samples: torch.Tensor) -> torch.Tensor:
        """Concatenate the samples `(own size, ...)` of all processes, `(sum of sizes, ...)`. Differentiable once."""
        missing = max(self.sizes) - len(samples)
        if missing:
            samples = torch.cat([samples, samples.new_zeros(missing, *samples.shape[1:])])
        stacked = self.stacked(samples)
        return torch.cat([part[:size] for part, size in zip(stacked, self.sizes, strict=True)])


def part_of_batch(samples: int, process: int, processes: int) -> slice:
    """Return a process's slice of a batch: parts as equal as can be; everything, if there are fewer samples."""
    if samples < processes:
        return slice(0, samples)
    return slice(samples * process // processes, samples * (process + 1) // processes)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, rank: int, processes: int) -> torch.Tensor:
        context.rank = rank
        gathered = tensor.new_empty(processes, *tensor.shape)
        torch.distributed.all_gather(list(gathered.unbind()), tensor.contiguous())
        return gathered

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient[context.rank], None, None


# A global, not a context variable: autograd recomputes checkpointed layers in its own threads, where a context variable
# has its default, so that statistics would silently be those of one process; and older versions of torch.compile cannot
# trace one. One training step at a time is made in a process.
_shared: SharedBatch | None = None


def shared_batch() -> SharedBatch | None:
    """Return the batch that processes share at this moment; None where a process has its batch to itself."""
    return _shared


@contextlib.contextmanager
def share_batch(batch: SharedBatch | None) -> Iterator[None]:
    """Set the batch that the calls inside work on; None for one of this process alone."""
    global _shared
    before, _shared = _shared, batch
    try:
        yield
    finally:
        _shared = before
