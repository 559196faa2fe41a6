"""Self-attention routing the usual way, with the tensor of all votes, as `window_routing_votes` has the others.

Shape suffixes: B batch, Q parents' positions of an image, I children of a parent, M = B * Q parent positions, J parent
types, E their dimension.
"""

from __future__ import annotations

import math

import torch

from encapkeras.reference.window_routing_votes import Step, Trace, Windows, as_map, dot, gather, kernel_of, votes


def self_attention_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "vector",
    trace: Trace | None = None,
) -> torch.Tensor:
    """Self-attention routing (Mazzia et al. 2021)."""
    windows = Windows(kernel_of(weight), strides, padding)
    vote_IMEJ = votes(windows.children(capsules), weight, pose)
    logit_IMJ = dot(vote_IMEJ, vote_IMEJ.sum(0) / math.sqrt(vote_IMEJ.shape[2]))
    coefficient_IMJ = share_IMJ = logit_IMJ.softmax(2)
    if bias is not None:
        bias_QIJ = (bias if weight.dim() == 8 else bias[None, None]).flatten(0, 1).flatten(1, 3)
        share_IBQJ = coefficient_IMJ.unflatten(1, (-1, len(bias_QIJ))) + bias_QIJ.transpose(0, 1).unsqueeze(1)
        share_IMJ = share_IBQJ.flatten(1, 2)
    sum_MJE = gather(share_IMJ, vote_IMEJ).mT
    length_MJ1 = sum_MJE.norm(dim=2, keepdim=True)
    smallest = torch.finfo(length_MJ1.dtype).tiny
    out_MJE = (1 - (-length_MJ1).exp()) * sum_MJE / length_MJ1.clamp_min(smallest)
    if trace:
        trace.add(vote_IMEJ, coefficient_IMJ, share_IMJ, out_MJE.mT, out_MJE.norm(dim=2))
    return as_map(out_MJE.mT, capsules, windows)
