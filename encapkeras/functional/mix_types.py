"""A matrix along the channels of each capsule type: a 1x1 convolution in groups.

Shape suffixes: B batch, N capsule types, D and E capsule dimensions before and after, P positions (H * W).
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from encapkeras.functional.kernels.choice import runs_numba
from encapkeras.functional.torch_support.plain_gradients import plain_gradients

_WIDEST = 4
"""Largest dimension for which a kernel is faster than a batched matrix product."""


def mix_types(map_BCHW: torch.Tensor, matrix_NED: torch.Tensor, added_BCHW: torch.Tensor | None = None) -> torch.Tensor:
    """Return `matrix[n] @ capsule + added` at each position, `(B, N * E, H, W)`.

    Several times faster than a grouped convolution.

    Args:
        map_BCHW: Map `(B, N * D, H, W)`.
        matrix_NED: A matrix for each type.
        added_BCHW: Map `(B, N * E, H, W)`; None for 0.

    Examples:
        >>> mix_types(torch.rand(2, 8, 4, 4), torch.rand(4, 3, 2)).shape
        torch.Size([2, 12, 4, 4])
    """
    map_BCP = map_BCHW.contiguous().flatten(2)
    added_BCP = None if added_BCHW is None else added_BCHW.contiguous().flatten(2)
    if max(matrix_NED.shape[1:]) <= _WIDEST and runs_numba(map_BCP, "mix"):
        out_BCP: torch.Tensor = _Mix.apply(map_BCP, matrix_NED.contiguous(), added_BCP)
    else:
        out_BCP = _plain(map_BCP, matrix_NED, added_BCP)
    # Not the map's shape as a whole: in ONNX it may have become that of the batch that was exported with.
    result: torch.Tensor = out_BCP.unflatten(2, map_BCHW.shape[2:])
    return result


def _plain(map_BCP: torch.Tensor, matrix_NED: torch.Tensor, added_BCP: torch.Tensor | None) -> torch.Tensor:
    out_BNEP = matrix_NED @ map_BCP.unflatten(1, (len(matrix_NED), -1))
    if added_BCP is not None:  # in place here: in a view, the backward pass would copy the gradient three times
        out_BNEP.add_(added_BCP.view(out_BNEP.shape))
    out_BCP: torch.Tensor = out_BNEP.flatten(1, 2)
    return out_BCP


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, map_BCP: torch.Tensor, matrix_NED: torch.Tensor, added_BCP: torch.Tensor | None
    ) -> torch.Tensor:
        from encapkeras.functional.kernels import numba_mix

        context.save_for_backward(map_BCP, matrix_NED)
        return numba_mix.mix(map_BCP, matrix_NED, added_BCP)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from encapkeras.functional.kernels import numba_mix

        map_BCP, matrix_NED = context.saved_tensors
        added_gradient = gradients[0] if context.needs_input_grad[2] else None
        if torch.is_grad_enabled():  # with create_graph=True
            plain = functools.partial(_plain, added_BCP=None)
            return *plain_gradients(plain, (map_BCP, matrix_NED), gradients[0]), added_gradient
        return *numba_mix.mix_backward(map_BCP, matrix_NED, gradients[0].contiguous()), added_gradient
