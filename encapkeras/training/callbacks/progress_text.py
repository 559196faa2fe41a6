"""The words of `Progress`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.text import Text

from encapkeras.errors import printable
from encapkeras.training.callbacks.log_values import single_numbers

GAP = "  "
LONGEST_TIME = len("12:34:56 left")
LONGEST_SPEED = len("12,345 images/s")


def metric_texts(logs: Mapping[str, Any] | None, hidden: Collection[str] = (), first: str = "") -> list[str]:
    """Return each metric that is one number with its value in validation, the most important, or `first`, first.

    Most important are accuracy and loss; of masks the mean IoU and the loss.

    Examples:
        >>> metric_texts({"align": 2.5, "accuracy": 0.93, "loss": 0.2, "val_accuracy": 0.9, "val_loss": 0.3})
        ['accuracy 0.9300 val 0.9000', 'loss 0.2000 val 0.3000', 'align 2.5000']
    """
    logs = logs or {}
    numbers = {name: value for name, value in single_numbers(logs).items() if name in logs and name not in hidden}
    texts = {}
    for name, value in numbers.items():
        if name.startswith("val_") and name.removeprefix("val_") in numbers:
            continue
        validated = f" val {_number(numbers[f'val_{name}'])}" if f"val_{name}" in numbers else ""
        texts[name] = f"{printable(name)} {_number(value)}{validated}"
    leading = ["mean_iou", "loss", "accuracy"] if "mean_iou" in texts else ["accuracy", "loss"]
    places = {name: place for place, name in enumerate(dict.fromkeys([first, *leading]))}
    in_order = sorted(texts, key=lambda n: (places.get(n, len(places)), " val " not in texts[n]))
    return [texts[name] for name in in_order]


def _number(number: float) -> str:
    """Return a number with at most six characters, without its sign, below a million."""
    if not math.isfinite(number) or abs(number) >= 1e6:
        return f"{number:.2e}"
    return f"{number:.{5 - len(str(int(abs(number))))}f}" if abs(number) < 1e5 else f"{number:.0f}"


def epoch_line(label: str, metrics: Sequence[str], speed: str, left: str, width: int) -> Text:
    """Return the line of an epoch: all metrics and the speed, as far as they fit.

    The first two metrics and the time left are always there. All lines of a training have the same parts: what fits is
    decided for long times and high speeds.
    """
    room = width - len(label) - len(GAP) - LONGEST_TIME
    shown: list[str] = []
    for text in metrics:
        room -= len(GAP) + len(text)
        if room < 0 and len(shown) >= 2:
            break
        shown.append(text)
    end = [left]
    if speed and len(shown) == len(metrics) and room >= len(GAP) + LONGEST_SPEED:
        end = [speed, left]
    middle = GAP + GAP.join(shown) if shown else ""
    return Text.assemble((label, "cyan"), middle, (GAP + GAP.join(filter(None, end)), "dim"))


def joined(parts: Sequence[str], least: int, width: int) -> str:
    """Join texts, leaving out empty ones, and those after the first `least` that do not fit."""
    line = GAP.join(filter(None, parts[:least]))
    for part in parts[least:]:
        if len(line) + len(GAP) + len(part) > width:
            break
        line += GAP + part
    return line
