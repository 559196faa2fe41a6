"""Processes and machines that fail are started again, and the training ends as if nothing had happened."""

import shutil
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


def makes_machines():
    """Whether network namespaces with interfaces may be made here."""
    ip, name = shutil.which("ip"), "encapkeras_may_i"
    if ip is None or subprocess.run([ip, "netns", "add", name], capture_output=True).returncode:
        return False
    interface = [ip, "-netns", name, "link", "add", "one", "type", "veth", "peer", "other"]
    made = subprocess.run(interface, capture_output=True).returncode == 0
    subprocess.run([ip, "netns", "delete", name], check=True)
    return made


@pytest.mark.slow
def test_a_training_whose_machine_is_cut_off_and_rebooted_ends_with_the_same_numbers():
    if not makes_machines():
        pytest.skip("needs ip netns and the right to make network namespaces (root)")
    command = [sys.executable, str(Path(__file__).with_name("lose_machine.py")), "--events", "cut", "reboot"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 events; 21 steps in 7 epochs, 39 samples in the last" in done.stdout
