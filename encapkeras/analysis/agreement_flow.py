"""How much each child of a routing layer has to do with each parent: the flow of agreement, back through one layer.

With `w_ij`, what the vote of child i counts in parent j in the last iteration (`c_ij`; `R_ij a_i` where children have
activations; the credit of Heinsen 2022), the part of child i in parent j is

    f_ij = max(0, g_ij) / sum_i max(0, g_ij),   g_ij = w_ij (vote_ij . v_j / |v_j|)

and `g_ij = w_ij` where parents have activations apart from their lengths. The flow of a class k at child i is
`sum_j f_ij flow_kj`. If no vote agrees with a parent, its children share alike.

Shape suffixes: B batch, K classes, P positions, N child types, D their dimension, J parent types, E their dimension,
Q parents' positions of an image, M = B * Q of all images, I children of a parent; n, b and p are those of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from encapkeras.analysis.plots import OF_LENGTHS
from encapkeras.analysis.routing_sums import check_finite
from encapkeras.analysis.stack_statistics import images_at_once
from encapkeras.analysis.vote_chunks import CHUNK_ELEMENTS, chunk_sizes, vote_chunks
from encapkeras.analysis.window_statistics import ROUTINGS, vote_numbers
from encapkeras.functional.routing.couplings import RoutingRecord, dot
from encapkeras.layers.window_layer import WindowRecord
from encapkeras.reference import window_routing_votes as with_votes
from encapkeras.reference.window_routing_votes import Trace, Windows


def flow_of_votes(
    routing: RoutingRecord,
    capsules_BPND: Tensor,
    activations_BPN: Tensor | None,
    flow_BKJ: Tensor,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return the flow at the children, `(B, K, P, N)`, of dynamic or EM routing of all children to all parents."""
    check_finite({"input capsules": [capsules_BPND], "weights": [routing.weight_NJED]})
    step = chunk_sizes(capsules_BPND, routing.weight_NJED, chunk_elements).images
    flows = []
    for start in range(0, len(capsules_BPND), step):
        part = slice(start, start + step)
        activations = None if activations_BPN is None else activations_BPN[part]
        agreement_NBPJ = _last_agreement(routing, capsules_BPND[part], activations, chunk_elements)
        agreement_IBJ = agreement_NBPJ.transpose(1, 2).flatten(0, 1)
        part_IBJ = _parts(agreement_IBJ, torch.ones_like(agreement_IBJ[..., :1]))
        flow_BKI = torch.einsum("ibj,bkj->bki", part_IBJ, flow_BKJ[part])
        flows.append(flow_BKI.unflatten(2, (capsules_BPND.shape[2], -1)).mT)
    return torch.cat(flows)


def _last_agreement(
    routing: RoutingRecord, capsules_BPND: Tensor, activations_BPN: Tensor | None, chunk_elements: int
) -> Tensor:
    """Return `g_ij` of the last iteration, `(N, B, P, J)`."""
    sizes = chunk_sizes(capsules_BPND, routing.weight_NJED, chunk_elements)
    inputs = (capsules_BPND, routing.weight_NJED, routing.bias_NJE, activations_BPN)
    couplings = routing.couplings(capsules_BPND, activations_BPN)
    for left in range(routing.iterations - 1, -1, -1):
        agreements = []
        direction_BJE = torch.nn.functional.normalize(couplings.outputs_BJE, dim=2)
        for chunk in vote_chunks(*inputs, sizes):
            share_NBPJ = couplings.of(chunk.votes_NBPJE)
            if chunk.activations_NBP is not None:
                share_NBPJ = share_NBPJ * chunk.activations_NBP[..., None]
            if left:
                couplings.gather(chunk.votes_NBPJE, share_NBPJ)
            else:
                of_length = routing.kind in OF_LENGTHS
                agreements.append(share_NBPJ * dot(chunk.votes_NBPJE, direction_BJE) if of_length else share_NBPJ)
        if left:
            couplings.advance()
    in_row = -(-capsules_BPND.shape[1] // sizes.positions)  # chunks come type by type, then position by position
    rows = [torch.cat(agreements[n : n + in_row], dim=2) for n in range(0, len(agreements), in_row)]
    return torch.cat(rows)


def flow_of_windows(
    record: WindowRecord, inputs: Sequence[Tensor], flow_BKQJ: Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> Tensor:
    """Return the flow at the children `(B, K, H, W, N)` of a routing in windows, or of a list as a map of one position.

    Inputs are the children `(B, H, W, N, D)`, and their activations where they have any.
    """
    check_finite({"input capsules": inputs[:1], "input activations": inputs[1:], "weights": record.tensors()})
    step = max(1, chunk_elements // vote_numbers(record, inputs[0].shape[1:4])[0])
    flows = []
    for start in range(0, len(inputs[0]), step):
        part = slice(start, start + step)
        some, trace = [tensor[part] for tensor in inputs], Trace()
        result = ROUTINGS[record.routing](*some, *record.weights, **record.options, trace=trace)
        weight_IMJ = result[1].transpose(0, 1) if record.routing == "heinsen_2022" else trace.states[-1][1]
        flows.append(_flow_of_trace(record, some[0], trace, weight_IMJ, flow_BKQJ[part]))
    return torch.cat(flows)


def flow_of_stack(
    records: Sequence[WindowRecord],
    concurrent: bool,
    capsules: Tensor,
    flow_BKQJ: Tensor,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return the flow at the children of the lowest layer `(B, K, H, W, N)` of a stack of inverted attention."""
    check_finite({"input capsules": [capsules], "weights": [part for record in records for part in record.tensors()]})
    iterations = records[0].options["iterations"]
    step = images_at_once(records, capsules.shape[1:4], chunk_elements)
    flows = []
    for start in range(0, len(capsules), step):
        part = slice(start, start + step)
        traces = [Trace() for _ in records]
        layers = [record.weights[0] for record in records]
        maps = with_votes.inverted_attention_stack(
            capsules[part], layers, traces, iterations=iterations, concurrent=concurrent
        )
        flow = flow_BKQJ[part]
        for record, below, trace in reversed(list(zip(records, maps, traces, strict=False))):  # the last map is on top
            flow_BKHWN = _flow_of_trace(record, below, trace, trace.states[-1][1], flow)
            flow = flow_BKHWN.flatten(2, 3)
        flows.append(flow_BKHWN)
    return torch.cat(flows)


def _flow_of_trace(
    record: WindowRecord, capsules: Tensor, trace: Trace, weight_IMJ: Tensor, flow_BKQJ: Tensor
) -> Tensor:
    """Return the flow at the children `(B, K, H, W, N)` of maps whose routing was traced."""
    vote_IMEJ, parent_MEJ = trace.votes[-1], trace.states[-1][2]
    agreement_IMJ = weight_IMJ.expand(len(vote_IMEJ), *parent_MEJ.shape[::2])
    if record.routing in OF_LENGTHS:
        # A parent of one number is a score: what raises it counts, whatever its sign.
        one = parent_MEJ.shape[1] == 1
        direction = torch.ones_like(parent_MEJ) if one else torch.nn.functional.normalize(parent_MEJ, dim=1)
        agreement_IMJ = agreement_IMJ * with_votes.dot(vote_IMEJ, direction)
    windows = Windows(record.kernel, record.strides, record.padding)
    there_IM1 = windows.children(torch.ones_like(capsules[..., 0])).unsqueeze(2)  # not in the padding
    part_IMJ = _parts(agreement_IMJ * there_IM1, there_IM1)
    batch, classes, places = flow_BKQJ.shape[:3]
    flow_MKJ = flow_BKQJ.transpose(1, 2).flatten(0, 1)
    flow_IMK = torch.einsum("imj,mkj->imk", part_IMJ, flow_MKJ)
    flow_ONBQK = flow_IMK.view(-1, capsules.shape[3], batch, places, classes)
    flow_RNBK = flow_ONBQK.permute(0, 3, 1, 2, 4).flatten(0, 1)
    vertical, horizontal = windows.padding
    height, width = (size + 2 * side for size, side in zip(capsules.shape[1:3], windows.padding, strict=True))
    padded = flow_RNBK.new_zeros(height * width, *flow_RNBK.shape[1:])
    padded.index_add_(0, windows.places(capsules), flow_RNBK)
    padded_HWNBK = padded.unflatten(0, (height, width))
    flow_HWNBK: Tensor = padded_HWNBK[vertical : height - vertical, horizontal : width - horizontal]
    return flow_HWNBK.permute(3, 4, 0, 1, 2)


def _parts(agreement_IMJ: Tensor, there_IM1: Tensor) -> Tensor:
    """Return the parts `f_ij`, which sum to 1 over the children that there are."""
    positive = agreement_IMJ.nan_to_num().clamp_min(0)
    total = positive.sum(0, keepdim=True)
    alike = there_IM1 / there_IM1.sum(0, keepdim=True).clamp_min(1)
    return torch.where(total > 0, positive / total.clamp_min(torch.finfo(total.dtype).tiny), alike)
