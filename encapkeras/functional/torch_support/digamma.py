"""The digamma function, in programs for other machines too: ONNX has none."""

from __future__ import annotations

import torch

from encapkeras.functional.torch_support.fake_tensors import is_exported

_STEPS = 8  # to where seven terms of the series are exact in float64
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)  # B_2k / (2k)


def digamma(positive: torch.Tensor) -> torch.Tensor:
    """Return the derivative of `log Gamma` at numbers above 0; in exported programs, of operations that ONNX has."""
    return series_digamma(positive) if is_exported() else torch.digamma(positive)


def series_digamma(positive: torch.Tensor) -> torch.Tensor:
    """Return `digamma(x) = log y - 1 / (2y) - sum_k B_2k / (2k y^2k) - sum_(s < 8) 1 / (x + s)`, with `y = x + 8`."""
    far = positive + _STEPS
    inverse_square = (far * far).reciprocal()
    series = torch.zeros_like(far)
    for term in reversed(_SERIES):
        series = (series + term) * inverse_square
    before = torch.stack([(positive + step).reciprocal() for step in range(_STEPS)]).sum(0)
    return far.log() - far.reciprocal() / 2 - series - before
