"""Routing analyses in TensorBoard."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch.utils.tensorboard import SummaryWriter

from encapkeras.analysis.measurements import BIN_WIDTH, COSINE_BINS, Measurement, RoutingAnalysis
from encapkeras.analysis.plots import plot_iterations, plot_votes


def write_iterations(writer: SummaryWriter, analysis: RoutingAnalysis) -> None:
    """Write one analysis with the iterations as TensorBoard's steps; give each checkpoint its own writer.

    Scalars `LAYER/STATISTIC/CAPSULES`, and histograms `LAYER/cosine/CAPSULES` of the cosines between votes and output
    capsules.

    Args:
        writer: Where to write.
        analysis: The analysis.
    """
    for m in analysis.measurements:
        if m.cosine is None and m.value is not None:
            writer.add_scalar(f"{m.layer}/{m.statistic}/{m.capsules}", m.value, m.iteration)
    for bins in _histograms(analysis):
        _add_histogram(writer, f"{bins[0].layer}/cosine/{bins[0].capsules}", bins, bins[0].iteration)


def write_epoch(writer: SummaryWriter, analysis: RoutingAnalysis, epoch: int) -> None:
    """Write one analysis with the epoch as TensorBoard's step.

    Scalars `LAYER/STATISTIC/CAPSULES/iteration T`, histograms `LAYER/cosine/CAPSULES` of the last iteration, and both
    figures of every layer.

    Args:
        writer: Where to write.
        analysis: The analysis.
        epoch: From 1.
    """
    for m in analysis.measurements:
        if m.cosine is None and m.value is not None:
            writer.add_scalar(f"{m.layer}/{m.statistic}/{m.capsules}/iteration {m.iteration}", m.value, epoch)
    last = {m.layer: m.iteration for m in analysis.measurements}
    for bins in _histograms(analysis):
        if bins[0].iteration == last[bins[0].layer]:
            _add_histogram(writer, f"{bins[0].layer}/cosine/{bins[0].capsules}", bins, epoch)
    for layer in analysis.layers:
        writer.add_figure(f"{layer}/iterations", plot_iterations([analysis], layer), epoch)
        writer.add_figure(f"{layer}/votes", plot_votes([analysis], layer), epoch)


def _histograms(analysis: RoutingAnalysis) -> list[list[Measurement]]:
    found = [m for m in analysis.measurements if m.cosine is not None]
    key = lambda m: (m.layer, m.iteration, m.capsules)  # noqa: E731
    return [list(bins) for _, bins in itertools.groupby(found, key)]


def _add_histogram(writer: SummaryWriter, tag: str, bins: Sequence[Measurement], step: int) -> None:
    """Add the bins as they are: the votes behind them do not exist any more."""
    counts = [m.count for m in bins]
    centers = [m.cosine or 0.0 for m in bins]
    writer.add_histogram_raw(
        tag,
        min=-1.0,
        max=1.0,
        num=sum(counts),
        sum=sum(c * center for c, center in zip(counts, centers, strict=True)),
        sum_squares=sum(c * center**2 for c, center in zip(counts, centers, strict=True)),
        bucket_limits=[-1 + BIN_WIDTH * (index + 1) for index in range(COSINE_BINS)],
        bucket_counts=counts,
        global_step=step,
    )
