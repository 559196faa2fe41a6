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

SCRIPT = Path(__file__).with_name("trained_together.py")
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "KERAS_TORCH_DEVICE": "cpu"}
PROCESSES = 2
KINDS = ("weight", "statistic", "optimizer", "seen", "evaluated", "predicted")


def started(folder, epochs, restarts=0):
    """A torchrun whose processes write into the folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    options = [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
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


def killed(folder, epochs, kills, start_up, moments):
    """Trains and kills one of the processes again and again, around the moment when it makes its first step.

    Returns:
        The number of kills.
    """
    torchrun, done, known = started(folder, epochs, restarts=kills), 0, set()
    while done < kills and torchrun.poll() is None:
        new = set(workers(torchrun))
        if len(new) < PROCESSES or new & known:  # torchrun has not started them again
            time.sleep(0.05)
            continue
        known = new
        time.sleep(moments.uniform(0.5, 1.3) * start_up)
        if torchrun.poll() is not None:
            break
        os.kill(moments.choice(sorted(new)), signal.SIGKILL)
        done += 1
        state = sorted(path.name for path in (folder / "state").glob("epoch_*.pt"))
        print(f"kill {done}: {state[-1] if state else 'nothing saved yet'}", flush=True)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        whole.mkdir()
        parts.mkdir()
        begun, epochs = time.monotonic(), 10 + 5 * arguments.kills  # enough for all kills
        torchrun = started(whole, epochs)
        while not any(whole.glob("state/epoch_*.pt")) and torchrun.poll() is None:
            time.sleep(0.05)
        start_up = time.monotonic() - begun
        if torchrun.wait(600):
            sys.exit(Path(folder, "whole.log").read_text()[-4000:])
        print(f"{epochs} epochs in one go; the first step was made after {start_up:.1f} s", flush=True)
        done = killed(parts, epochs, arguments.kills, start_up, random.Random(arguments.seed))  # noqa: S311
        found = differences(whole, parts)
        seen = np.load(parts / "rank_0.npz")
        steps = next(int(seen[name]) for name in seen if name.startswith("optimizer") and name.endswith("/iteration"))
        samples = next(int(seen[name]) for name in seen if name.startswith("seen") and name.endswith("/count"))
    print(f"{done} kills; {steps} steps in {epochs} epochs, {samples} samples in the last")
    print("\n".join(found) or "equal: weights, statistics, optimizer, metrics, predictions")
    return 1 if found or done < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
