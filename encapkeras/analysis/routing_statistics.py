"""Statistics of what the iterations of a routing do with its votes, which never exist all at once.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, J output capsules, E their dimension,
R roles (target or other).
"""

from __future__ import annotations

import torch
from torch import Tensor

from encapkeras.analysis.measurements import Measurement
from encapkeras.analysis.routing_sums import Sums, check_finite, check_labels, roles_of
from encapkeras.analysis.vote_chunks import CHUNK_ELEMENTS, Chunk, chunk_sizes, vote_chunks
from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.couplings import Couplings, RoutingRecord, dot


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
        self._sums: list[Sums] = []

    def add(self, capsules_BPND: Tensor, activations_BPN: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Add a batch."""
        self._check_finite(capsules_BPND, activations_BPN)
        outputs = self._routing.weight_NJED.shape[1]
        roles = check_labels(labels, outputs)
        if self._sums and roles != self._roles:
            raise ArgumentError("either all batches must have labels, or none")
        if not self._sums:
            self._roles = roles
            self._sums = [Sums(len(roles)) for _ in range(self._routing.iterations)]
        weight = self._routing.weight_NJED
        images = chunk_sizes(capsules_BPND, weight, self._chunk_elements).images
        for start in range(0, len(capsules_BPND), images):
            part = slice(start, start + images)
            self._add_part(
                capsules_BPND[part],
                None if activations_BPN is None else activations_BPN[part],
                roles_of(None if labels is None else labels[part], len(capsules_BPND[part]), outputs, weight.device),
            )

    def _check_finite(self, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> None:
        weights = [value for value in vars(self._routing).values() if isinstance(value, Tensor)]
        activations = [] if activations_BPN is None else [activations_BPN]
        named = {"input capsules": [capsules_BPND], "input activations": activations, "weights": weights}
        check_finite(named)

    def _add_part(self, capsules_BPND: Tensor, activations_BPN: Tensor | None, role_BJ: Tensor) -> None:
        """Add images whose votes of at least one input capsule fit into a chunk together."""
        routing = self._routing
        sizes = chunk_sizes(capsules_BPND, routing.weight_NJED, self._chunk_elements)
        couplings = routing.couplings(capsules_BPND, activations_BPN)
        for iteration, sums in enumerate(self._sums):
            if iteration:
                couplings.advance()
            passing = _Pass(couplings, routing.softmax_over, capsules_BPND[0, ..., 0].numel(), role_BJ)
            weights = (routing.weight_NJED, routing.bias_NJE, activations_BPN)
            for chunk in vote_chunks(capsules_BPND, *weights, sizes):
                shares_NBPJ = passing.add(chunk, sums)
                if iteration < len(self._sums) - 1:
                    couplings.gather(chunk.votes_NBPJE, shares_NBPJ)
            passing.finish(sums)

    def measurements(self, layer: str) -> list[Measurement]:
        """Return the measurements so far."""
        roles, kind = self._roles, self._routing.kind
        return [m for t, sums in enumerate(self._sums, 1) for m in sums.measurements(layer, kind, t, roles)]


class _Pass:
    """One iteration of some images, over the chunks of their votes."""

    def __init__(self, couplings: Couplings, softmax_over: str, inputs: int, role_BJ: Tensor) -> None:
        self._couplings = couplings
        self._inputs = inputs
        self._over_inputs = softmax_over == "inputs"
        self._role_BJ = role_BJ
        self._output_length_BJ = couplings.outputs_BJE.norm(dim=-1)
        zeros = torch.zeros_like(self._output_length_BJ, dtype=torch.float64)  # many small numbers are summed
        self._entropy_BJ, self._cosine_BJ, self._shared_cosine_BJ, self._share_BJ = (zeros.clone() for _ in range(4))

    def add(self, chunk: Chunk, sums: Sums) -> Tensor:
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
            counts = torch.zeros_like(sums.distributions)
            counts[0] = entropy_NBPJ[..., 0].numel()
            sums.add_distributions(counts, entropy_NBPJ.shape[-1])
        self._cosine_BJ += cosine_NBPJ.sum(dim=(0, 2), dtype=torch.float64)
        self._shared_cosine_BJ += (shares_NBPJ * cosine_NBPJ).sum(dim=(0, 2), dtype=torch.float64)
        self._share_BJ += shares_NBPJ.sum(dim=(0, 2), dtype=torch.float64)
        sums.add_votes(cosine_NBPJ, length_NBPJ, self._role_BJ[:, None])
        return shares_NBPJ

    def finish(self, sums: Sums) -> None:
        """Add what is known after the last chunk."""
        role = self._role_BJ.flatten().cpu()

        def by_role(values_BJ: Tensor) -> Tensor:
            return torch.zeros_like(sums.capsules).index_add_(0, role, values_BJ.flatten().double().cpu())

        capsules = by_role(torch.ones_like(self._share_BJ))
        if self._over_inputs:
            sums.entropy += by_role(self._entropy_BJ)
            sums.add_distributions(capsules, self._inputs)
        sums.cosine += by_role(self._cosine_BJ)
        sums.shared_cosine += by_role(self._shared_cosine_BJ)
        sums.share += by_role(self._share_BJ)
        sums.activation += by_role(self._couplings.activations_BJ)
        sums.capsules += capsules
