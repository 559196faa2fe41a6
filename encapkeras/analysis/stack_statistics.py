"""Statistics of a stack of layers that are routed at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from encapkeras.analysis.measurements import Measurement
from encapkeras.analysis.routing_sums import check_finite, check_labels
from encapkeras.analysis.window_statistics import WindowStatistics, vote_numbers
from encapkeras.layers.window_layer import WindowRecord
from encapkeras.reference.window_routing_votes import Trace, inverted_attention_stack


class StackStatistics:
    """Sums up the statistics of each layer of inverted attention in a stack, as `WindowStatistics` do of one."""

    def __init__(self, records: Sequence[WindowRecord], concurrent: bool, chunk_elements: int) -> None:
        self._records = records
        self._concurrent = concurrent
        self._chunk_elements = chunk_elements
        self._statistics = [WindowStatistics(record, chunk_elements) for record in records]

    def add(self, capsules: Tensor, activations: None = None, labels: Tensor | None = None) -> None:
        """Add a batch of maps `(B, H, W, N, D)`; labels are of the last layer."""
        tensors = [tensor for record in self._records for tensor in record.tensors()]
        check_finite({"input capsules": [capsules], "weights": tensors})
        check_labels(labels, self._records[-1].outputs or 0)
        iterations = self._records[0].options["iterations"]
        images = images_at_once(self._records, capsules.shape[1:4], self._chunk_elements)
        for start in range(0, len(capsules), images):
            part = slice(start, start + images)
            self._add_part(capsules[part], iterations, None if labels is None else labels[part])

    def _add_part(self, capsules: Tensor, iterations: int, labels: Tensor | None) -> None:
        traces = [Trace() for _ in self._records]
        layers = [record.weights[0] for record in self._records]
        maps = inverted_attention_stack(capsules, layers, traces, iterations=iterations, concurrent=self._concurrent)
        for number, (statistics, trace) in enumerate(zip(self._statistics, traces, strict=True), 1):
            statistics.add_trace(maps[number - 1], trace, labels if number == len(traces) else None)

    def measurements(self, layer: str) -> list[Measurement]:
        """Return the measurements so far, of layers named `STACK/layer_0` and so on."""
        return [
            m
            for number, statistics in enumerate(self._statistics)
            for m in statistics.measurements(f"{layer}/layer_{number}")
        ]


def images_at_once(records: Sequence[WindowRecord], children: Sequence[int], elements: int) -> int:
    """Return for how many images all votes of a stack may exist at once; `children` are rows, columns and types."""
    numbers, sizes = 0, list(children)
    for record in records:
        more, sizes = vote_numbers(record, sizes)
        numbers += more * record.options["iterations"]  # each pass has votes of its own
    return max(1, elements // numbers)
