"""Homogeneous vector capsules the usual way, with the tensor of all products `(B, J, I, D)` (Byerly et al. 2020).

The baseline of `encapkeras bench routing`; name and arguments are those of `encapkeras.functional`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def homogeneous_vector_capsules(
    image: torch.Tensor, weight_DIJ: torch.Tensor, norm: Any, *, training: bool, epsilon: float = 1e-3
) -> torch.Tensor:
    """Return capsules `(B, J, D)` of the positions of a map, `(B, H, W, C)` or `(B, P, C)`; statistics do not move."""
    product_BJID = image.reshape(len(image), 1, -1, image.shape[-1]) * weight_DIJ.permute(2, 1, 0)
    sum_BDJ = product_BJID.sum(2).transpose(1, 2)
    mean, variance = (None, None) if training else (norm.mean, norm.variance)
    normed_BDJ = F.batch_norm(sum_BDJ, mean, variance, norm.scale, norm.offset, training, eps=epsilon)
    return normed_BDJ.relu().transpose(1, 2)
