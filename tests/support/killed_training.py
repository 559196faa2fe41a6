"""A training that is killed again and again, and what it has to leave."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from support.warm import warm_python
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from encapkeras import load_model

SPEC = Path(__file__).parent / "resumable.yaml"
TRAIN = ["-m", "encapkeras", "train"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
MEASURED = {"images_per_second", "seconds", "peak_memory_mib"}
EPOCHS_A_KILL = 2
STARTING = 1  # seconds until the training begins, about


def trained_in_one_go(run, kills):
    """Trains for as long as so many kills need; gives the seconds of an epoch."""
    subprocess.run([*_command(kills), "--run-dir", str(run)], check=True, env=ONE_THREAD, capture_output=True)
    return json.loads((run / "results.json").read_text())["seconds"] / _length(kills)


def killed_and_resumed(run, kills, seconds, seed, say=print):
    """Kills a training with SIGKILL so many times, each time resuming it, then lets it end; tells how far it came.

    Every fourth is killed while it starts, the others while they train, at a random moment of some two epochs, and at
    the latest once so many are in `metrics.csv`: how fast a machine is must not decide whether any are left.
    """
    random_moments = random.Random(seed)  # noqa: S311  # no secret
    done = 0
    while True:
        process = _started(run, kills)
        if done == kills:
            _, message = process.communicate(timeout=600)
            assert process.returncode == 0, message
            return
        if done % 4 == 3:
            time.sleep(random_moments.uniform(0, STARTING))
        else:
            for line in process.stdout:
                if line.startswith("run folder"):
                    break
            moment = time.monotonic() + random_moments.uniform(0, 2 + EPOCHS_A_KILL * seconds)
            while time.monotonic() < moment and _epochs(run) < EPOCHS_A_KILL * (done + 1):
                time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, message = process.communicate()
        if process.returncode == 0:
            raise AssertionError(f"the training ended before kill {done + 1} of {kills}")
        assert process.returncode == -signal.SIGKILL, message
        done += 1
        say(f"kill {done} of {kills}: {_state(run)}")


def _command(kills):
    return [*warm_python(), *TRAIN, str(SPEC), "--set", f"train.epochs={_length(kills)}"]


def _length(kills):
    """The epochs of a training that so many kills can't see the end of."""
    return EPOCHS_A_KILL * (kills + 1)


def _epochs(run):
    """How many epochs are in the run's table: a line each, below the head."""
    table = run / "metrics.csv"
    return max(len(table.read_bytes().splitlines()) - 1, 0) if table.exists() else 0


def _started(run, kills):
    """The training in a process of its own; all that it prints can be read."""
    command = [*_command(kills), "--resume", str(run)]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _state(run):
    files = sorted(path.name for path in (run / "checkpoints").rglob("*") if path.is_file() and path.name != ".lock")
    return ", ".join(files) or "nothing saved"


def differences(whole, parts):
    """In what two runs differ that should be equal."""
    found = []
    if (whole / "metrics.csv").read_bytes() != (parts / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    found += [name for name in ("best", "last") if _weights(whole, name) != _weights(parts, name)]
    results = [json.loads((run / "results.json").read_text()) for run in (whole, parts)]
    found += [key for key in results[0] if key not in MEASURED and results[0][key] != results[1].get(key)]
    if (whole / "analysis/epochs.csv").read_bytes() != (parts / "analysis/epochs.csv").read_bytes():
        found.append("analysis/epochs.csv")
    for folder in ("tensorboard", "analysis/epochs"):
        points = [_points(run / folder) for run in (whole, parts)]
        found += [f"{folder}: {tag} at {step} twice" for (tag, step), count in points[1].items() if count > 1]
        # An epoch whose steps were all made by the process before has no speed.
        missing = {(tag, step) for tag, step in set(points[0]) ^ set(points[1]) if tag != "images_per_second"}
        found += [f"{folder}: {point}" for point in sorted(missing)]
    return found


def _weights(run, name):
    model = load_model(run / "checkpoints" / f"{name}.keras")
    return [(weight.path, weight.numpy().tobytes()) for weight in model.weights]


def _points(folder):
    """How often each tag has each step, in all event files."""
    return Counter(
        (value.tag, event.step)
        for file in sorted(folder.rglob("events.out.tfevents.*"))
        if not file.name.endswith(".hparams")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    )
