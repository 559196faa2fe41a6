"""What a classifier makes of its validation images, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encapkeras.training.tensorboard.figures import draw_confusion, draw_plan, draw_predictions, draw_reconstructions
from encapkeras.training.tensorboard.probe import Seen
from encapkeras.training.tensorboard.projector import write_projector

BINS = 30  # of a histogram
MIXED_UP = 20  # pairs of classes that are named


def write_pictures(writer: SummaryWriter, folder: Path, seen: Seen, names: Sequence[str], epoch: int) -> None:
    """Writes pictures, histograms and the projector's files.

    Args:
        writer: Where to write.
        folder: Its folder, for the projector.
        seen: What the network made of the images.
        names: Names of the classes.
        epoch: From 1.
    """
    if not torch.isfinite(seen.scores).all():
        writer.add_text("pictures", "The scores are not finite: there is nothing to draw.", epoch)
        return
    writer.add_figure("predictions", draw_predictions(seen, names), epoch)
    writer.add_figure("confusion", draw_confusion(seen.confusion, names), epoch)
    writer.add_text("confusion", _mixed_up(seen.confusion, names), epoch)
    for name, decoded in seen.reconstructions.items():
        writer.add_figure(f"reconstructions/{name}", draw_reconstructions(seen, decoded, names), epoch)
    for name, plan in seen.plans.items():
        writer.add_figure(f"transport_plan/{name}", draw_plan(plan, seen.labels, names), epoch)
    if seen.capsules is not None:
        _add_lengths(writer, seen, names, epoch)
        write_projector(folder, seen, names, epoch)


def _add_lengths(writer: SummaryWriter, seen: Seen, names: Sequence[str], epoch: int) -> None:
    """How long the capsule of each class is for images of this class, and for others."""
    bins = np.linspace(0, max(1.0, seen.scores.max().item()), BINS + 1)
    for index, name in enumerate(names):
        own = seen.labels == index
        for tag, which in (("own_class", own), ("other_classes", ~own)):
            lengths = seen.scores[which, index]
            if len(lengths):
                writer.add_histogram(f"capsule_length_for_{tag}/{name}", lengths.numpy(), epoch, bins=bins)


def _mixed_up(confusion: Tensor, names: Sequence[str]) -> str:
    """The pairs of classes that are mixed up most often, as a table in Markdown."""
    wrong = confusion - confusion.diag().diag()
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    of_class = confusion.sum(1)
    lines = ["| class | taken for | images | of the class |", "|---|---|---|---|"]
    for count, place in zip(counts[:MIXED_UP].tolist(), places.tolist(), strict=False):
        if count:
            row, column = divmod(place, len(names))
            lines.append(f"| {names[row]} | {names[column]} | {count:,} | {count / int(of_class[row]):.1%} |")
    return "\n".join(lines) if len(lines) > 2 else "No image was taken for another class."
