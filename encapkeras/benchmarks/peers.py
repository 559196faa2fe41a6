"""Layers and training steps of published methods: ours beside plain torch, written the usual way."""

from __future__ import annotations

from typing import Any

from encapkeras.benchmarks.peer_methods import METHODS, OURS, Contest
from encapkeras.benchmarks.runner import device_name, milliseconds, spread_text, table_row
from encapkeras.errors import EncapkerasError

TOLERANCE = 1e-4


def measure(method: str, part: str, batch_size: int, rounds: int, steps: int, device: str) -> dict[str, Any]:
    """Time the ways of a method's `layer`, forward and backward, or of its training `step`, in turn.

    Raises:
        EncapkerasError: The ways give different outputs with the same weights, so that times mean nothing.
    """
    chosen = METHODS[method]
    contest: Contest = chosen.layer(batch_size, device) if part == "layer" else chosen.step(batch_size, steps, device)
    if not contest.difference <= TOLERANCE:
        raise EncapkerasError(
            f"{method}, {contest.what}: with the same weights, outputs differ by {contest.difference:.1e}; at most "
            f"{TOLERANCE:g} is rounding. Times of different results cannot be compared: please report this."
        )
    measured = milliseconds(contest.ways, rounds, warm_up_each_round=part == "layer")
    ours, *others = measured.median.values()
    return {
        "method": method,
        "part": part,
        "what": contest.what,
        "batch_size": batch_size,
        "device": device_name(device),
        "milliseconds": measured.median,
        "spread": measured.spread,
        "times_as_fast_as_best_peer": min(others) / ours,
        "largest_difference_of_outputs": contest.difference,
        "other_cores": measured.other_cores,
    }


def as_table(report: dict[str, Any]) -> str:
    """Return a report as lines of text."""
    times = report["milliseconds"]
    lines = [
        f"{report['method']}: {report['what']}, batch {report['batch_size']}, {report['device']}; milliseconds: "
        "medians, least to largest"
    ]
    for way, time in times.items():
        ratio = "" if way == OURS else f"{time / times[OURS]:.2f}"
        lines.append(table_row(way, [f"{time:.2f}", spread_text(report["spread"][way]), ratio], (30, 12, 24, 10)))
    lines.append(
        f"  {report['times_as_fast_as_best_peer']:.2f} times as fast as the best other; largest difference of outputs "
        f"{report['largest_difference_of_outputs']:.1e}"
    )
    return "\n".join(lines)
