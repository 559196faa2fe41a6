"""The convolutions and matrix products that a network made in a training step, to be made again by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import torch
from torch.utils.flop_counter import FlopCounterMode

from encapkeras.torch_internals import each_operation

_ATEN = torch.ops.aten
CONVOLUTIONS = (_ATEN.convolution, _ATEN.convolution_backward)
_IN_PLACE = (_ATEN.addmm_, _ATEN.baddbmm_)
PRODUCTS = (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, *_IN_PLACE)


@dataclass(frozen=True)
class Operation:
    """An operation with the arguments that it had: the very tensors, so that shapes, strides and values are the same.

    What it writes into is a copy, as the network still needs its own.
    """

    function: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def kind(self) -> Any:
        """The operation without its overload, such as `torch.ops.aten.convolution`."""
        return self.function.overloadpacket

    def run(self) -> None:
        """Make it again."""
        self.function(*self.arguments, **self.named)


def record(step: Callable[[], object]) -> list[Operation]:
    """Return the convolutions and matrix products of a training step, forward and backward, in their order."""
    operations: list[Operation] = []

    def see(function: Any, arguments: Sequence[Any], named: dict[str, Any]) -> None:
        kind = function.overloadpacket
        if kind not in CONVOLUTIONS + PRODUCTS:
            return
        held, named = keras.tree.map_structure(_detached, list(arguments)), dict(named)
        if kind in _IN_PLACE:
            held[0] = held[0].clone()
        if named.get("out") is not None:
            named["out"] = torch.empty_like(named["out"])
        operations.append(Operation(function, tuple(held), named))

    with each_operation(see):
        step()
    return operations


def convolutions_of(operations: Sequence[Operation]) -> list[Operation]:
    """Return the convolutions among them."""
    return [operation for operation in operations if operation.kind in CONVOLUTIONS]


def products_of(operations: Sequence[Operation]) -> list[Operation]:
    """Return the matrix products among them."""
    return [operation for operation in operations if operation.kind in PRODUCTS]


def replay(operations: Sequence[Operation]) -> None:
    """Make all of them again."""
    with torch.no_grad():
        for operation in operations:
            operation.run()


def flops(operations: Sequence[Operation]) -> int:
    """Return their floating-point operations, as torch counts them; operations in place are not counted."""
    with FlopCounterMode(display=False) as counter:
        replay(operations)
    return int(counter.get_total_flops())


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
