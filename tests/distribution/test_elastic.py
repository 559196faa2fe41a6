"""Processes that are killed are started again, and the training ends as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_training_whose_processes_are_killed_ends_with_the_same_numbers():
    command = [sys.executable, str(Path(__file__).with_name("kill_workers.py")), "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills; 66 steps in 22 epochs, 39 samples in the last" in done.stdout
