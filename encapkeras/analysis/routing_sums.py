"""What is summed up over images in the analysis of a routing, and the means of it.

Shape suffixes: B batch, J output capsules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from encapkeras.analysis.measurements import COSINE_BINS, Measurement, bin_center
from encapkeras.errors import ArgumentError

CLASSES = ("target", "other")


class Sums:
    """The sums of one iteration over all images, by role; in double precision, on the CPU."""

    def __init__(self, roles: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(roles, *shape, dtype=torch.float64)

        self.entropy, self.largest_entropy, self.distributions = zeros(), zeros(), zeros()
        self.cosine, self.shared_cosine, self.share = zeros(), zeros(), zeros()
        self.activation, self.capsules = zeros(), zeros()
        self.votes, self.length = zeros(COSINE_BINS), zeros(COSINE_BINS)

    def add_distributions(self, counts: Tensor, number: float) -> None:
        """Add distributions, so many of each role, over so many couplings each."""
        self.distributions += counts
        self.largest_entropy += counts * math.log(number)

    def add_votes(self, cosine: Tensor, length: Tensor, role: Tensor) -> None:
        """Add votes to the bins of their cosines."""
        position = ((cosine + 1) * (COSINE_BINS / 2)).long().clamp_(0, COSINE_BINS - 1)
        position = (position + COSINE_BINS * role).flatten()
        size = self.votes.numel()
        self.votes += torch.bincount(position, minlength=size).view_as(self.votes).cpu()
        lengths = torch.bincount(position, length.flatten(), minlength=size)
        self.length += lengths.view_as(self.length).cpu()

    def measurements(self, layer: str, kind: str, iteration: int, roles: Sequence[str]) -> Iterator[Measurement]:
        """Yield the means."""

        def mean(
            statistic: str, role: str, total: Tensor, weight: Tensor, count: Tensor, cosine: float | None = None
        ) -> Measurement:
            value = (total / weight).item() if weight else None
            return Measurement(layer, kind, iteration, statistic, role, cosine, value, round(count.item()))

        of_roles = bool(self.distributions[1:].any())
        for index, role in enumerate(roles if of_roles else ("all",)):
            count, largest = self.distributions[index], self.largest_entropy[index]
            entropy = self.entropy[index].clamp(max=largest)  # rounded couplings can exceed it a little
            yield mean("coupling_entropy", role, entropy, count, count)
            yield mean("coupling_entropy_relative", role, entropy, largest, count)
        for index, role in enumerate(roles):
            votes, capsules = self.votes[index].sum(), self.capsules[index]
            yield mean("agreement", role, self.cosine[index], votes, votes)
            yield mean("agreement_by_coupling", role, self.shared_cosine[index], self.share[index], votes)
            yield mean("activation", role, self.activation[index], capsules, capsules)
            for position in range(COSINE_BINS):
                count = self.votes[index, position]
                yield mean("vote_length", role, self.length[index, position], count, count, bin_center(position))


def roles_of(labels: Tensor | None, batch: int, outputs: int, device: torch.device) -> Tensor:
    """Return the roles of the output capsules `(B, J)`: 0 for the target, 1 for others; 0 without labels."""
    if labels is None:
        return torch.zeros(batch, outputs, dtype=torch.long, device=device)
    return (torch.arange(outputs, device=device) != labels.to(device)[:, None]).long()


def check_labels(labels: Tensor | None, outputs: int) -> tuple[str, ...]:
    """Return the names of the roles; raise `ArgumentError` for labels that are no output capsule."""
    if labels is None:
        return ("all",)
    if not ((labels >= 0) & (labels < outputs)).all():
        raise ArgumentError(
            f"labels must be from 0 to {outputs - 1}, one of the {outputs} output capsules; received "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return CLASSES


def check_finite(named: Mapping[str, Sequence[Tensor]]) -> None:
    """Raise `ArgumentError` if one of the tensors has NaN or infinity."""
    for name, tensors in named.items():
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise ArgumentError(
                f"the {name} contain NaN or infinity, so there is nothing to analyse; check the images, and the "
                "training that produced the weights"
            )
