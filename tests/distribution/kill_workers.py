"""Kills processes of a training at random moments, and compares its end with that of one that was left alone.

    python tests/distribution/kill_workers.py --kills 20

torchrun starts the processes again each time, and they go on from the last step that was saved. At the end weights,
moving statistics, optimizer, the number of steps and of the samples in the last epoch have to be the same.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.warm import warm_python

SCRIPT = Path(__file__).with_name("trained_together.py")
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "KERAS_TORCH_DEVICE": "cpu"}
PROCESSES = 2
STEPS_AN_EPOCH = 3
MOST_STEPS = 12  # from a start to the kill
STARTING = 2  # seconds until processes train, about
KINDS = ("weight", "statistic", "optimizer", "seen", "evaluated", "predicted")


def started(folder, epochs, restarts=0):
    """A torchrun whose processes write into the folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    options = [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    options += ["--no-python", *warm_python()]
    script = [str(SCRIPT), str(folder), "--epochs", str(epochs), "--every-step", "--resume", str(folder / "state")]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        return subprocess.Popen([sys.executable, *launcher, *options, *script], env=ENVIRONMENT, stdout=log, stderr=log)


def workers(torchrun):
    """The processes that it has started."""
    lists = Path(f"/proc/{torchrun.pid}/task").glob("*/children")
    children = [child for each in lists for child in each.read_text().split()]
    return [int(child) for child in children if str(SCRIPT) in command_of(child)]


def command_of(process):
    """Nothing, if it has just ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def steps_saved(folder):
    """How many steps the newest state has behind it."""
    names = [path.stem.split("_") for path in (folder / "state").glob("epoch_*.pt")]
    return max((STEPS_AN_EPOCH * (int(epoch) - 1) + int(step) for _, epoch, _, step in names), default=0)


def killed(folder, epochs, kills, moments):
    """Trains and kills one of the processes again and again: while they start, or after some more steps.

    Returns:
        The number of kills.
    """
    torchrun, done, known = started(folder, epochs, restarts=kills), 0, set()
    while done < kills and torchrun.poll() is None:
        new = set(workers(torchrun))
        if len(new) < PROCESSES or new & known:  # torchrun has not started them again
            time.sleep(0.02)
            continue
        known, before, more = new, steps_saved(folder), moments.choice([0, 0, *range(1, MOST_STEPS + 1)])
        time.sleep(moments.uniform(0, STARTING if more == 0 else 0.2))
        while steps_saved(folder) < before + more and torchrun.poll() is None:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(moments.choice(sorted(new)), signal.SIGKILL)
            done += 1
            print(f"kill {done}: {steps_saved(folder)} steps were saved", flush=True)
    if torchrun.wait(600):
        sys.exit((folder.parent / f"{folder.name}.log").read_text()[-4000:])
    return done


def differences(whole, parts):
    """What is not the same in both folders."""
    found = []
    for rank in range(PROCESSES):
        one, other = (np.load(folder / f"rank_{rank}.npz") for folder in (whole, parts))
        for name in one:
            if name.startswith(KINDS) and not np.array_equal(one[name], other[name]):
                found.append(f"process {rank}: {name}")
    return found


def count_of(folder, kind, end):
    """A number that the first process has found."""
    found = np.load(folder / "rank_0.npz")
    return next(int(found[name]) for name in found if name.startswith(kind) and name.endswith(end))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        whole.mkdir()
        parts.mkdir()
        epochs = 10 + MOST_STEPS * arguments.kills // STEPS_AN_EPOCH  # enough for all kills
        if started(whole, epochs).wait(600):
            sys.exit(Path(folder, "whole.log").read_text()[-4000:])
        print(f"{epochs} epochs were trained in one go", flush=True)
        done = killed(parts, epochs, arguments.kills, random.Random(arguments.seed))  # noqa: S311
        found = differences(whole, parts)
        steps, samples = count_of(parts, "optimizer", "/iteration"), count_of(parts, "seen", "/count")
    print(f"{done} kills; {steps} steps in {epochs} epochs, {samples} samples in the last")
    print("\n".join(found) or "equal: weights, statistics, optimizer, metrics, predictions")
    return 1 if found or done < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
