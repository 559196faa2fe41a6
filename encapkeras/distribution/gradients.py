"""Sums of gradients over processes, sent while the backward pass still computes those of earlier layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from encapkeras.torch_internals import call_after_backward

BUCKET_BYTES = 25 << 20  # as torch's own DistributedDataParallel


class _Bucket:
    """Neighboring parameters, whose gradients travel in one message."""

    def __init__(self) -> None:
        self.parameters: list[torch.Tensor] = []
        self.missing = 0
        self.message: torch.Tensor | None = None
        self.work: distributed.Work | None = None

    def send(self) -> None:
        """Start the sum of all gradients present; every process has those of the same parameters."""
        gradients = [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        if gradients:
            self.message = torch.cat(gradients)
            self.work = distributed.all_reduce(self.message, async_op=True)

    def receive(self) -> None:
        if self.work is None or self.message is None:
            return
        self.work.wait()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for gradient, total in zip(gradients, self.message.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))
        self.message = self.work = None


class GradientSum:
    """Sum the gradients of parameters, given in network order, in buckets sent in one order, last layers first."""

    def __init__(self, parameters: Sequence[torch.Tensor], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.parameters = list(parameters)
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[int, _Bucket] = {}
        self._sent = 0
        self._is_under_way = False
        filled, kind = 0, None
        for parameter in reversed(self.parameters):
            if not self._buckets or filled >= bucket_bytes or kind != (parameter.dtype, parameter.device):
                self._buckets.append(_Bucket())
                filled, kind = 0, (parameter.dtype, parameter.device)
            self._buckets[-1].parameters.append(parameter)
            self._bucket_of[id(parameter)] = self._buckets[-1]
            filled += parameter.nbytes
        self._hooks = [each.register_post_accumulate_grad_hook(self._arrived) for each in self.parameters]

    def close(self) -> None:
        """Stop summing."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, parameter: torch.Tensor) -> None:
        if not self._is_under_way:
            self._begin()
        self._bucket_of[id(parameter)].missing -= 1
        while self._sent < len(self._buckets) and self._buckets[self._sent].missing == 0:
            self._send_next()

    def _begin(self) -> None:
        self._is_under_way = True
        self._sent = 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        call_after_backward(self._finish)

    def _send_next(self) -> None:
        self._buckets[self._sent].send()
        self._sent += 1

    def _finish(self) -> None:
        while self._sent < len(self._buckets):  # parameters that the loss does not depend on
            self._send_next()
        for bucket in self._buckets:
            bucket.receive()
        self._is_under_way = False
