"""Statistics of what the iterations of a routing in windows do, from all votes of a few images at a time.

Shape suffixes: B batch, H W map of the children, I children of a parent, M parents' positions in all images, Q those of
an image, J parent types, E their dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from encapkeras.analysis.measurements import Measurement
from encapkeras.analysis.routing_sums import Sums, check_finite, check_labels, roles_of
from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.windows import Windows
from encapkeras.layers.window_layer import WindowRecord
from encapkeras.reference import convolution_routing, heinsen_votes, self_attention_votes
from encapkeras.reference import window_routing_votes as with_votes
from encapkeras.reference.window_routing_votes import Trace

ROUTINGS: dict[str, Callable[..., Any]] = {
    "self_routing": with_votes.self_routing,
    "self_attention": self_attention_votes.self_attention_routing,
    "inverted_attention": with_votes.inverted_attention_routing,
    "convolution_dynamic": convolution_routing.convolution_dynamic_routing,
    "dynamic": with_votes.window_dynamic_routing,
    "em": with_votes.window_em_routing,
    "variational_bayes": with_votes.variational_bayes_routing,
    "heinsen_2019": heinsen_votes.heinsen_2019_routing,
    "heinsen_2022": heinsen_votes.heinsen_2022_routing,
}


class WindowStatistics:
    """Sums up the statistics of one routing in windows over batches of images, as `RoutingStatistics` does.

    Where all parents that a child feeds compete for it, an entropy is that of all its couplings, in every window.
    """

    def __init__(self, record: WindowRecord, chunk_elements: int) -> None:
        self._record = record
        self._chunk_elements = chunk_elements
        self._roles: tuple[str, ...] = ()
        self._sums: list[Sums] = []

    def add(self, capsules: Tensor, activations: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Add a batch of maps `(B, H, W, N, D)`, with activations where the routing has them."""
        inputs = [capsules] if activations is None else [capsules, activations]
        record = self._record
        check_finite({"input capsules": [capsules], "input activations": inputs[1:], "weights": record.tensors()})
        check_labels(labels, record.outputs or capsules.shape[3])
        numbers, _ = vote_numbers(record, capsules.shape[1:4])
        images = max(1, self._chunk_elements // numbers)
        for start in range(0, len(capsules), images):
            part = slice(start, start + images)
            some, trace = [tensor[part] for tensor in inputs], Trace()
            ROUTINGS[record.routing](*some, *record.weights, **record.options, trace=trace)
            self.add_trace(some[0], trace, None if labels is None else labels[part])

    def add_trace(self, capsules: Tensor, trace: Trace, labels: Tensor | None) -> None:
        """Add what was done with a few maps `(B, H, W, N, D)`."""
        outputs = self._record.outputs or capsules.shape[3]
        roles = check_labels(labels, outputs)
        if self._sums and roles != self._roles:
            raise ArgumentError("either all batches must have labels, or none")
        self._roles, self._sums = roles, self._sums or [Sums(len(roles)) for _ in trace.states]
        role_BJ = roles_of(labels, len(capsules), outputs, capsules.device)
        role_MJ = role_BJ.repeat_interleave(trace.votes[0].shape[1] // len(role_BJ), 0)
        exist_IM, rivals_IM = self._competition(capsules, trace, outputs)
        for sums, vote_IMEJ, state in zip(self._sums, trace.votes, trace.states, strict=True):
            distributions_IM = exist_IM * (outputs / rivals_IM.double())  # in how many windows a child counts
            sums.distributions[0] += distributions_IM.sum().cpu()
            sums.largest_entropy[0] += (distributions_IM * rivals_IM.log()).sum().cpu()
            _add_state(sums, vote_IMEJ, state, role_MJ, exist_IM)

    def _competition(self, capsules: Tensor, trace: Trace, outputs: int) -> tuple[Tensor, Tensor]:
        """Return which children there are, and how many parents compete for each, `(I, M)`."""
        if trace.rivals is not None:
            return torch.ones_like(trace.rivals, dtype=torch.bool), trace.rivals
        record = self._record
        windows = with_votes.Windows(record.kernel, record.strides, record.padding)
        exist_IM = windows.children(torch.ones_like(capsules[..., 0])) > 0
        if trace.present is not None:
            exist_IM = exist_IM & trace.present
        rivals = with_votes.Rivals(capsules, windows, record.competition)
        return exist_IM, rivals.count(outputs)[..., 0].expand_as(exist_IM)

    def measurements(self, layer: str) -> list[Measurement]:
        """Return the measurements so far."""
        kind, roles = self._record.routing, self._roles
        return [m for t, sums in enumerate(self._sums, 1) for m in sums.measurements(layer, kind, t, roles)]


def vote_numbers(record: WindowRecord, children: Sequence[int]) -> tuple[int, list[int]]:
    """Return how many numbers the votes of an image are, and rows, columns and types of the parents' map."""
    height, width, types = children
    windows, outputs = Windows(record.kernel, record.strides, record.padding), record.outputs or types
    rows, columns = windows.output_size(height, width)
    return rows * columns * windows.count * types * outputs * max(1, record.dim), [rows, columns, outputs]


def _add_state(sums: Sums, vote_IMEJ: Tensor, state: tuple[Tensor, ...], role_MJ: Tensor, exist_IM: Tensor) -> None:
    """Add the state after an iteration; children in the padding do not count."""
    length_IMJ = vote_IMEJ.norm(dim=2)
    smallest = torch.finfo(length_IMJ.dtype).tiny
    coefficient_IMJ, share_IMJ = (each.expand_as(length_IMJ) * exist_IM.unsqueeze(2) for each in state[:2])
    parent_MEJ, activation_MJ = (each.nan_to_num() for each in state[2:])  # of windows without active children
    direction_MEJ = parent_MEJ / parent_MEJ.norm(dim=1, keepdim=True).clamp_min(smallest)
    cosine_IMJ = with_votes.dot(vote_IMEJ, direction_MEJ) / length_IMJ.clamp_min(smallest)
    cosine_IMJ = cosine_IMJ.clamp(-1, 1) * exist_IM.unsqueeze(2)
    role = role_MJ.flatten().cpu()

    def by_role(values_MJ: Tensor) -> Tensor:
        return torch.zeros_like(sums.capsules).index_add_(0, role, values_MJ.flatten().double().cpu())

    sums.entropy[0] += torch.special.entr(coefficient_IMJ).sum(dtype=torch.float64).cpu()
    sums.activation += by_role(activation_MJ)
    sums.capsules += by_role(torch.ones_like(activation_MJ))
    if not vote_IMEJ.shape[2]:  # a last layer, which has activations alone
        return
    sums.add_votes(cosine_IMJ[exist_IM], length_IMJ[exist_IM], role_MJ.expand_as(length_IMJ)[exist_IM])
    sums.cosine += by_role(cosine_IMJ.sum(0, dtype=torch.float64))
    sums.shared_cosine += by_role((share_IMJ * cosine_IMJ).sum(0, dtype=torch.float64))
    sums.share += by_role(share_IMJ.sum(0, dtype=torch.float64))
