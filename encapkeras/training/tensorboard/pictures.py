"""The predictions of a classifier in TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encapkeras.text import in_markdown
from encapkeras.training.tensorboard.figures import draw_confusion, draw_plan, draw_predictions, draw_reconstructions
from encapkeras.training.tensorboard.predictions import Predictions
from encapkeras.training.tensorboard.projector import write_projector

BINS = 30  # of a histogram
MOST_PAIRS = 20  # pairs of classes that are named


def write_pictures(
    writer: SummaryWriter, folder: Path, predictions: Predictions, names: Sequence[str], epoch: int
) -> None:
    """Write pictures, histograms, and the projector's files into the writer's folder; epochs count from 1."""
    if not torch.isfinite(predictions.scores).all():
        writer.add_text("pictures", "The scores are not finite: there is nothing to draw.", epoch)
        return
    writer.add_figure("predictions", draw_predictions(predictions, names), epoch)
    writer.add_figure("confusion", draw_confusion(predictions.confusion, names), epoch)
    writer.add_text("confusion", _confused(predictions.confusion, names), epoch)
    for name, decoded in predictions.reconstructions.items():
        writer.add_figure(f"reconstructions/{name}", draw_reconstructions(predictions, decoded, names), epoch)
    for name, plan in predictions.plans.items():
        writer.add_figure(f"transport_plan/{name}", draw_plan(plan, predictions.labels, names), epoch)
    if predictions.capsules is not None:
        _add_lengths(writer, predictions, names, epoch)
        write_projector(folder, predictions, names, epoch)


def _add_lengths(writer: SummaryWriter, predictions: Predictions, names: Sequence[str], epoch: int) -> None:
    bins = np.linspace(0, max(1.0, predictions.scores.max().item()), BINS + 1)
    for index, name in enumerate(_tags(names)):
        own = predictions.labels == index
        for tag, which in (("own_class", own), ("other_classes", ~own)):
            lengths = predictions.scores[which, index]
            if len(lengths):
                writer.add_histogram(f"capsule_length_for_{tag}/{name}", lengths.numpy(), epoch, bins=bins)


def _tags(names: Sequence[str]) -> list[str]:
    """Return names as TensorBoard has them in tags; with numbers if two would have the same."""
    tags = [re.sub(r"[^-\w.]", "_", name) for name in names]
    return tags if len(set(tags)) == len(tags) else [f"{number}_{tag}" for number, tag in enumerate(tags)]


def _confused(confusion: Tensor, names: Sequence[str]) -> str:
    """Return the pairs of classes that are confused most often, as a table in Markdown."""
    wrong = confusion - confusion.diag().diag()
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    of_class = confusion.sum(1)
    lines = ["| class | classified as | images | share of the class |", "|---|---|---|---|"]
    for count, place in zip(counts[:MOST_PAIRS].tolist(), places.tolist(), strict=False):
        if count:
            row, column = divmod(place, len(names))
            pair = f"{in_markdown(names[row])} | {in_markdown(names[column])}"
            lines.append(f"| {pair} | {count:,} | {count / int(of_class[row]):.1%} |")
    return "\n".join(lines) if len(lines) > 2 else "No image was misclassified."
