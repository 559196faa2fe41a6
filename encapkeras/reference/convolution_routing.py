"""Dynamic routing of maps by a convolution, as in DeepCaps, and by a transposed one, as in SegCaps.

Both literally, and the usual way with the tensor of all votes.

Shape suffixes: B batch, H W map of the children, N child types, D their dimension, P positions of the parents, J
parent types, E their dimension.
"""

from __future__ import annotations

import itertools

import torch
from torch.nn import functional as F

from encapkeras.reference.routing_loops import squash, total
from encapkeras.reference.window_routing_votes import Trace


def _sides(size: int, kernel: int, strides: int) -> tuple[int, int]:
    """Return the zeros before and behind a side, of the padding that TensorFlow calls "same"."""
    outputs = -(-size // strides)
    zeros = max((outputs - 1) * strides + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2


def votes(
    capsules_BHWND: torch.Tensor,
    weight: torch.Tensor,
    outputs: int,
    strides: int,
    layout: str,
    padding: str = "same",
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return the votes `(B, N, P, J, E)`, and height and width of the parents' map."""
    batch, height, width, types, dim = capsules_BHWND.shape
    if layout == "reference":
        image_BCHW = capsules_BHWND.reshape(batch, types * dim, height, width)
    else:
        image_BCHW = capsules_BHWND.permute(0, 3, 4, 1, 2).flatten(1, 2)
    if padding == "same":
        top, bottom = _sides(height, weight.shape[2], strides)
        left, right = _sides(width, weight.shape[3], strides)
        image_BCHW = F.pad(image_BCHW, (left, right, top, bottom))
    by_type = F.conv2d(image_BCHW.reshape(batch * types, dim, *image_BCHW.shape[2:]), weight, stride=strides)
    size = (by_type.shape[2], by_type.shape[3])
    vote_BNPJE = by_type.reshape(batch, types, outputs, -1, size[0] * size[1]).permute(0, 1, 4, 2, 3)
    return vote_BNPJE.contiguous(), size


def convolution_dynamic_routing_loops(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    iterations: int = 3,
    strides: int = 1,
    layout: str = "transposed",
    normalize_over: str = "parents_and_positions",
    squash_over: str = "map",
) -> torch.Tensor:
    """Route sample by sample and child by child; return capsules `(B, H', W', J, E)`."""
    all_votes, size = votes(capsules, weight, len(bias), strides, layout)
    out_BPJE = _route_loops(all_votes, bias, iterations, normalize_over, squash_over)
    out_BPQJE: torch.Tensor = out_BPJE.unflatten(1, size)
    return out_BPQJE


def _route_loops(
    all_votes: torch.Tensor, bias: torch.Tensor, iterations: int, normalize_over: str, squash_over: str
) -> torch.Tensor:
    """Route votes `(B, N, P, J, E)`; return capsules `(B, P, J, E)`."""
    results = []
    for vote in all_votes:
        types, positions, outputs = vote.shape[:3]
        every = list(itertools.product(range(positions), range(outputs)))
        logit = torch.zeros(types, positions, outputs, dtype=vote.dtype)
        for _ in range(iterations):
            exp = logit.exp()
            parents = {}
            for p, j in every:
                others = every if normalize_over == "parents_and_positions" else [(p, k) for k in range(outputs)]
                shares = [exp[n, p, j] / total([exp[n, q, k] for q, k in others]) for n in range(types)]
                parents[p, j] = total([shares[n] * vote[n, p, j] for n in range(types)]) + bias[j]
            if squash_over == "map":
                maps = [squash(torch.cat([parents[p, j] for p in range(positions)])) for j in range(outputs)]
                out = torch.stack([one.reshape(positions, -1) for one in maps], 1)
            else:
                out = torch.stack([squash(parents[place]) for place in every]).reshape(positions, outputs, -1)
            logit = logit + (vote * out).sum(3)
        results.append(out)
    return torch.stack(results)


def transposed_votes(
    capsules: torch.Tensor, weight: torch.Tensor, outputs: int, strides: int
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return the votes `(B, N, P, J, E)` and the size of the parents' map: each child lays its kernel down."""
    batch, height, width, types, _ = capsules.shape
    rows, columns = weight.shape[2:]
    size = (strides * height, strides * width)
    top, left = (rows - strides) // 2, (columns - strides) // 2
    votes: dict[tuple[int, ...], torch.Tensor] = {}
    for b, n, p, q in itertools.product(range(batch), range(types), range(height), range(width)):
        for k, m in itertools.product(range(rows), range(columns)):
            place = (b, n, p * strides + k - top, q * strides + m - left)
            vote = (weight[:, :, k, m] * capsules[b, p, q, n].unsqueeze(1)).sum(0)
            votes[place] = votes[place] + vote if place in votes else vote
    places = itertools.product(range(batch), range(types), range(size[0]), range(size[1]))
    all_votes = torch.stack([votes[place] for place in places])
    return all_votes.reshape(batch, types, size[0] * size[1], outputs, -1), size


def transposed_convolution_dynamic_routing_loops(
    capsules: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, strides: int = 2, iterations: int = 3
) -> torch.Tensor:
    """Route sample by sample and child by child; return capsules `(B, strides * H, strides * W, J, E)`."""
    all_votes, size = transposed_votes(capsules, weight, len(bias), strides)
    out_BPQJE: torch.Tensor = _route_loops(all_votes, bias, iterations, "parents", "capsule").unflatten(1, size)
    return out_BPQJE


def transposed_convolution_dynamic_routing(
    capsules_BHWND: torch.Tensor, weight: torch.Tensor, bias_JE: torch.Tensor, *, strides: int = 2, iterations: int = 3
) -> torch.Tensor:
    """Route with all votes; return capsules `(B, strides * H, strides * W, J, E)`."""
    batch, height, width = capsules_BHWND.shape[:3]
    by_type = F.conv_transpose2d(capsules_BHWND.permute(0, 3, 4, 1, 2).flatten(0, 1), weight, stride=strides)
    top, left = ((side - strides) // 2 for side in weight.shape[2:])
    by_type = by_type[:, :, top : top + strides * height, left : left + strides * width]
    vote_BNPJE = by_type.flatten(2).unflatten(1, tuple(bias_JE.shape)).unflatten(0, (batch, -1)).permute(0, 1, 4, 2, 3)
    logit_BNPJ = torch.zeros_like(vote_BNPJE[..., 0])
    for _ in range(iterations):
        sum_BPJE = (logit_BNPJ.softmax(3).unsqueeze(4) * vote_BNPJE).sum(1) + bias_JE
        length = torch.linalg.vector_norm(sum_BPJE, dim=3, keepdim=True)
        out_BPJE = sum_BPJE * (length / (1 + length**2))
        logit_BNPJ = logit_BNPJ + (vote_BNPJE * out_BPJE.unsqueeze(1)).sum(4)
    out_BPQJE: torch.Tensor = out_BPJE.unflatten(1, (strides * height, strides * width))
    return out_BPQJE


def convolution_dynamic_routing(
    capsules_BHWND: torch.Tensor,
    weight: torch.Tensor,
    bias_JE: torch.Tensor,
    *,
    iterations: int = 3,
    strides: int = 1,
    padding: str = "same",
    layout: str = "transposed",
    normalize_over: str = "parents_and_positions",
    squash_over: str = "map",
    trace: Trace | None = None,
) -> torch.Tensor:
    """Route with all votes; return capsules `(B, H', W', J, E)`."""
    vote_BNPJE, size = votes(capsules_BHWND, weight, len(bias_JE), strides, layout, padding)
    first = 2 if normalize_over == "parents_and_positions" else 3
    logit_BNPJ = torch.zeros_like(vote_BNPJE[..., 0])
    for iteration in range(iterations):
        share_BNPJ = logit_BNPJ.flatten(first).softmax(first).view_as(logit_BNPJ)
        sum_BPJE = (share_BNPJ.unsqueeze(4) * vote_BNPJE).sum(1) + bias_JE
        length = torch.linalg.vector_norm(sum_BPJE, dim=(1, 3) if squash_over == "map" else 3, keepdim=True)
        out_BPJE = sum_BPJE * (length / (1 + length**2))
        if trace:
            _record(trace, vote_BNPJE, share_BNPJ, out_BPJE, rivals=logit_BNPJ[0, 0].numel() if first == 2 else None)
        if iteration < iterations - 1:
            logit_BNPJ = logit_BNPJ + (vote_BNPJE * out_BPJE.unsqueeze(1)).sum(4)
    out_BPQJE: torch.Tensor = out_BPJE.unflatten(1, size)
    return out_BPQJE


def _record(
    trace: Trace, vote_BNPJE: torch.Tensor, share_BNPJ: torch.Tensor, out_BPJE: torch.Tensor, rivals: int | None
) -> None:
    """Record an iteration, with the types as the children of each position."""
    share_NMJ = share_BNPJ.transpose(0, 1).flatten(1, 2)
    out_MEJ = out_BPJE.flatten(0, 1).mT
    trace.add(vote_BNPJE.transpose(0, 1).flatten(1, 2).mT, share_NMJ, share_NMJ, out_MEJ, out_MEJ.norm(dim=1))
    trace.rivals = torch.full_like(share_NMJ[..., 0], rivals or share_NMJ.shape[2])
