"""Metrics that need all scores of an evaluation at once, beside the accuracy and loss of its batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from encapkeras.analysis.probabilities import Probabilities
from encapkeras.analysis.scores import OF_CLASSES, OF_LABELS, Scores
from encapkeras.distribution.processes import all_reduce_sum, connected, from_each
from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.shared_batch import shared_batch
from encapkeras.model.spec_model import SpecModel


class EvaluationScores:
    """Collects the scores of an evaluation, of all processes, and measures them; see `SpecModel.score_metrics`.

    Args:
        model: The network.
        classes_per_image: Of the images; None for any number.
        shown: Which metric of the logs progress shows, beside those of the batches.
    """

    def __init__(self, model: SpecModel, classes_per_image: int | None, shown: str = "") -> None:
        self.probabilities = Probabilities(model, classes_per_image)
        self.names = OF_CLASSES if classes_per_image == 1 else OF_LABELS
        self.hidden = {name for metric in self.names for name in (metric, f"val_{metric}")} - {shown}
        self.shown = shown if shown.removeprefix("val_") in self.names else ""
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        self.scores = self.labels = torch.empty(0)

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what `add` gets inside, as `scores` `(N, K)` and `labels`, which have the samples of all processes."""
        kept: list[tuple[Tensor, Tensor]] = []
        self._kept = kept
        try:
            yield
        finally:
            self._kept = None
        on_cpu = [(scores.cpu().double(), labels.cpu().double()) for scores, labels in kept]
        rows = [torch.cat([scores, labels.view(len(labels), -1)], 1) for scores, labels in on_cpu]
        classes = len(self.probabilities.names)
        empty = torch.empty(0, classes + (1 if self.probabilities.one_class else classes), dtype=torch.float64)
        self.scores, labels = _of_all_processes(torch.cat([empty, *rows])).split([classes, empty.shape[1] - classes], 1)
        self.labels = labels[:, 0].long() if self.probabilities.one_class else labels

    def add(self, labels: Any, scores: Tensor) -> None:
        """Take a batch; one that all processes have as a whole is taken by the first."""
        taken = connected().is_first or shared_batch() is not None
        if self._kept is not None and taken and has_values(scores):  # Keras builds metrics with tensors that have none
            self._kept.append((scores.detach(), labels))

    def measured(self) -> Scores:
        """Return all that was measured in the last evaluation."""
        return Scores.of(self.probabilities, self.scores, self.labels)

    def result(self) -> dict[str, float]:
        """Return the means over classes, NaN where they are not defined."""
        return {name: math.nan if value is None else value for name, value in self.measured().values.items()}


def _of_all_processes(rows: Tensor) -> Tensor:
    """Return the rows `(n, F)` of all processes, in their order."""
    if connected().count == 1:
        return rows
    counts = from_each(len(rows))
    first = sum(counts[: connected().rank])
    every = rows.new_zeros(sum(counts), rows.shape[1])
    every[first : first + len(rows)] = rows
    all_reduce_sum([every])
    return every
