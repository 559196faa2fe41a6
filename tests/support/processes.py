"""Trainings in several processes: how they are started, watched and compared."""

import csv
import os
import time
from pathlib import Path

import numpy as np

from encapkeras import load_model

ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "KERAS_TORCH_DEVICE": "cpu"}


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def largest_difference(one, other, checkpoint="last"):
    both = [load_model(run / "checkpoints" / f"{checkpoint}.keras").get_weights() for run in (one, other)]
    return max(np.abs(a - b).max() for a, b in zip(*both, strict=True))


def wait_for(ready):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = ready()
        if found:
            return found
        time.sleep(0.01)
    raise TimeoutError


def children(process):
    """Those in the order in which they were started."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    return sorted(int(child) for each in lists for child in each.read_text().split())
