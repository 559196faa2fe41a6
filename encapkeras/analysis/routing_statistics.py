"""Statistics of what the iterations of a routing do with its votes, which never exist all at once.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, J output capsules, E their dimension,
R roles (target or other).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from encapkeras.analysis.measurements import COSINE_BINS, Measurement, bin_center
from encapkeras.analysis.vote_chunks import CHUNK_ELEMENTS, Chunk, chunk_sizes, vote_chunks
from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.couplings import Couplings, RoutingRecord, dot

CLASSES = ("target", "other")


class RoutingStatistics:
    """Sums up the statistics of one routing over batches of images.

    With I input capsules i, J output capsules j, votes `vote_ij` and couplings `c_ij` (`R_ij` of EM), for each
    iteration: the entropy of the couplings along the axis over which they sum to 1; the cosine between each vote and
    `v_j` (`mu_j` of EM) as they are after the iteration, plain and weighted with the vote's weight in the mean (`c_ij`,
    or `R_ij a_i`); the mean length of the votes whose cosine is in each of 21 bins; the activation `|v_j|` (`a_j` of
    EM). A vector of length 0 has cosine 0 with everything.
    """

    def __init__(self, routing: RoutingRecord, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        self._routing = routing
        self._chunk_elements = chunk_elements
        self._roles: tuple[str, ...] = ()
        self._sums: list[_Sums] = []
        self._inputs = 0

    def add(self, capsules_BPND: Tensor, activations_BPN: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Add a batch."""
        self._check_finite(capsules_BPND, activations_BPN)
        outputs = self._routing.weight_NJED.shape[1]
        roles = ("all",) if labels is None else CLASSES
        if self._sums and roles != self._roles:
            raise ArgumentError("either all batches must have labels, or none")
        if labels is not None and not ((labels >= 0) & (labels < outputs)).all():
            raise ArgumentError(
                f"labels must be from 0 to {outputs - 1}, one of the {outputs} output capsules; received "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        if not self._sums:
            self._roles, self._inputs = roles, capsules_BPND.shape[1] * capsules_BPND.shape[2]
            self._sums = [_Sums(len(roles)) for _ in range(self._routing.iterations)]
        weight = self._routing.weight_NJED
        images = chunk_sizes(capsules_BPND, weight, self._chunk_elements).images
        for start in range(0, len(capsules_BPND), images):
            part = slice(start, start + images)
            self._add_part(
                capsules_BPND[part],
                None if activations_BPN is None else activations_BPN[part],
                _roles_of(None if labels is None else labels[part], len(capsules_BPND[part]), outputs, weight.device),
            )

    def _check_finite(self, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> None:
        weights = [value for value in vars(self._routing).values() if isinstance(value, Tensor)]
        activations = [] if activations_BPN is None else [activations_BPN]
        named = {"input capsules": [capsules_BPND], "input activations": activations, "weights": weights}
        for name, tensors in named.items():
            if not all(tensor.isfinite().all() for tensor in tensors):
                raise ArgumentError(
                    f"the {name} contain NaN or infinity, so there is nothing to analyse; check the images, and "
                    "the training that produced the weights"
                )

    def _add_part(self, capsules_BPND: Tensor, activations_BPN: Tensor | None, role_BJ: Tensor) -> None:
        """Add images whose votes of at least one input capsule fit into a chunk together."""
        routing = self._routing
        sizes = chunk_sizes(capsules_BPND, routing.weight_NJED, self._chunk_elements)
        couplings = routing.couplings(capsules_BPND, activations_BPN)
        for iteration, sums in enumerate(self._sums):
            if iteration:
                couplings.advance()
            passing = _Pass(couplings, routing.softmax_over, role_BJ)
            weights = (routing.weight_NJED, routing.bias_NJE, activations_BPN)
            for chunk in vote_chunks(capsules_BPND, *weights, sizes):
                shares_NBPJ = passing.add(chunk, sums)
                if iteration < len(self._sums) - 1:
                    couplings.gather(chunk.votes_NBPJE, shares_NBPJ)
            passing.finish(sums)

    def measurements(self, layer: str) -> list[Measurement]:
        """Return the measurements so far."""
        return [m for iteration, sums in enumerate(self._sums, start=1) for m in self._metrics(layer, iteration, sums)]

    def _metrics(self, layer: str, iteration: int, sums: _Sums) -> Iterator[Measurement]:
        over_inputs = self._routing.softmax_over == "inputs"
        number = self._inputs if over_inputs else self._routing.weight_NJED.shape[1]

        def mean(
            statistic: str, role: str, total: Tensor, weight: Tensor, count: Tensor, cosine: float | None = None
        ) -> Measurement:
            value = (total / weight).item() if weight else None
            kind = self._routing.kind
            return Measurement(layer, kind, iteration, statistic, role, cosine, value, round(count.item()))

        for index, role in enumerate(self._roles if over_inputs else ("all",)):
            count = sums.distributions[index]
            largest = count * math.log(number)
            entropy = sums.entropy[index].clamp(max=largest)  # rounded couplings can exceed it a little
            yield mean("coupling_entropy", role, entropy, count, count)
            yield mean("coupling_entropy_relative", role, entropy, largest, count)
        for index, role in enumerate(self._roles):
            votes, capsules = sums.votes[index].sum(), sums.capsules[index]
            yield mean("agreement", role, sums.cosine[index], votes, votes)
            yield mean("agreement_by_coupling", role, sums.shared_cosine[index], sums.share[index], votes)
            yield mean("activation", role, sums.activation[index], capsules, capsules)
            for position in range(COSINE_BINS):
                count = sums.votes[index, position]
                yield mean("vote_length", role, sums.length[index, position], count, count, bin_center(position))


class _Sums:
    """The sums of one iteration over all images, by role; in double precision, on the CPU."""

    def __init__(self, roles: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(roles, *shape, dtype=torch.float64)

        self.entropy, self.distributions = zeros(), zeros()
        self.cosine, self.shared_cosine, self.share = zeros(), zeros(), zeros()
        self.activation, self.capsules = zeros(), zeros()
        self.votes, self.length = zeros(COSINE_BINS), zeros(COSINE_BINS)


class _Pass:
    """One iteration of some images, over the chunks of their votes."""

    def __init__(self, couplings: Couplings, softmax_over: str, role_BJ: Tensor) -> None:
        self._couplings = couplings
        self._over_inputs = softmax_over == "inputs"
        self._role_BJ = role_BJ
        self._output_length_BJ = couplings.outputs_BJE.norm(dim=-1)
        zeros = torch.zeros_like(self._output_length_BJ, dtype=torch.float64)  # many small numbers are summed
        self._entropy_BJ, self._cosine_BJ, self._shared_cosine_BJ, self._share_BJ = (zeros.clone() for _ in range(4))

    def add(self, chunk: Chunk, sums: _Sums) -> Tensor:
        """Add a chunk; return the weights of its votes in their mean, `(n, b, p, J)`."""
        coupling_NBPJ = self._couplings.of(chunk.votes_NBPJE)
        shares_NBPJ = coupling_NBPJ
        if chunk.activations_NBP is not None:
            shares_NBPJ = coupling_NBPJ * chunk.activations_NBP[..., None]
        length_NBPJ = chunk.votes_NBPJE.norm(dim=-1)
        product_NBPJ = dot(chunk.votes_NBPJE, self._couplings.outputs_BJE)
        smallest = torch.finfo(product_NBPJ.dtype).tiny
        # One after the other: the product of two small lengths would be 0.
        cosine_NBPJ = product_NBPJ / length_NBPJ.clamp_min(smallest)
        cosine_NBPJ = (cosine_NBPJ / self._output_length_BJ.clamp_min(smallest)[:, None]).clamp(-1, 1)

        entropy_NBPJ = torch.special.entr(coupling_NBPJ)
        if self._over_inputs:
            self._entropy_BJ += entropy_NBPJ.sum(dim=(0, 2), dtype=torch.float64)
        else:
            sums.entropy[0] += entropy_NBPJ.sum(dtype=torch.float64).cpu()
            sums.distributions[0] += entropy_NBPJ[..., 0].numel()
        self._cosine_BJ += cosine_NBPJ.sum(dim=(0, 2), dtype=torch.float64)
        self._shared_cosine_BJ += (shares_NBPJ * cosine_NBPJ).sum(dim=(0, 2), dtype=torch.float64)
        self._share_BJ += shares_NBPJ.sum(dim=(0, 2), dtype=torch.float64)
        self._add_to_bins(cosine_NBPJ, length_NBPJ, sums)
        return shares_NBPJ

    def _add_to_bins(self, cosine_NBPJ: Tensor, length_NBPJ: Tensor, sums: _Sums) -> None:
        position_NBPJ = ((cosine_NBPJ + 1) * (COSINE_BINS / 2)).long().clamp_(0, COSINE_BINS - 1)
        position = (position_NBPJ + COSINE_BINS * self._role_BJ[:, None]).flatten()
        size = sums.votes.numel()
        sums.votes += torch.bincount(position, minlength=size).view_as(sums.votes).cpu()
        lengths = torch.bincount(position, length_NBPJ.flatten(), minlength=size)
        sums.length += lengths.view_as(sums.length).cpu()

    def finish(self, sums: _Sums) -> None:
        """Add what is known after the last chunk."""
        role = self._role_BJ.flatten().cpu()

        def by_role(values_BJ: Tensor) -> Tensor:
            return torch.zeros_like(sums.capsules).index_add_(0, role, values_BJ.flatten().double().cpu())

        capsules = by_role(torch.ones_like(self._share_BJ))
        if self._over_inputs:
            sums.entropy += by_role(self._entropy_BJ)
            sums.distributions += capsules
        sums.cosine += by_role(self._cosine_BJ)
        sums.shared_cosine += by_role(self._shared_cosine_BJ)
        sums.share += by_role(self._share_BJ)
        sums.activation += by_role(self._couplings.activations_BJ)
        sums.capsules += capsules


def _roles_of(labels: Tensor | None, batch: int, outputs: int, device: torch.device) -> Tensor:
    """Return the roles of the output capsules `(B, J)`: 0 for the target, 1 for others; 0 without labels."""
    if labels is None:
        return torch.zeros(batch, outputs, dtype=torch.long, device=device)
    return (torch.arange(outputs, device=device) != labels.to(device)[:, None]).long()
