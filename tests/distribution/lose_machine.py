"""Has one of two machines fail while they train together, and compares the end with that of an undisturbed training.

    python tests/distribution/lose_machine.py --events pause cut reboot

The machines are network namespaces with an address each, which root alone may make. Both run torchrun, which finds the
other one through the rendezvous of the first. The second one fails, each time after some more steps or while processes
start:

- pause: its link is down for a moment. The connections outlast it.
- cut: its link is down for longer than processes wait. On both machines they give up, and are started again.
- reboot: its link is down, and all that runs on it is killed at once. When it is back torchrun is called again there.
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kill_workers import ENVIRONMENT, SCRIPT, STEPS_AN_EPOCH, count_of, differences, steps_saved
from support.warm import warm_python

MOST_STEPS = 6  # from one event to the next
TIMEOUT = 10  # seconds that a process waits for another one
STARTING = 5  # seconds until processes train, about
LINK_DOWN = {"pause": 3, "cut": 20, "reboot": 5}  # seconds
NO_END = 240  # seconds after an event
# What torchrun has to be told on machines that fail, see docs/scaling.md
LAUNCHER_ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
LAUNCHER_OPTIONS = ["--max-restarts=10", "--rdzv-conf=read_timeout=600,is_host={is_host}"]


@dataclass(frozen=True)
class Machine:
    """A network namespace with its end of the cable to the other one."""

    name: str
    address: str
    port: str
    rendezvous: str  # the address of the machine that has it

    def call_torchrun(self, folder, epochs):
        """Has the machine train, or join those that do."""
        # By itself torchrun goes by the name of the machine, which namespaces share.
        is_host = self.address == self.rendezvous
        launcher = [*warm_python(), "-m", "torch.distributed.run", "--nnodes=2", "--monitor-interval=0.1"]
        launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={self.rendezvous}:29400", "--rdzv-id=lose_machine"]
        launcher += [f"--local-addr={self.address}", *(each.format(is_host=is_host) for each in LAUNCHER_OPTIONS)]
        launcher += ["--no-python", *warm_python()]
        script = [str(SCRIPT), str(folder), "--epochs", str(epochs), f"--timeout={TIMEOUT}"]
        script += ["--every-step", "--resume", str(folder / "state")]
        command = ["ip", "netns", "exec", self.name, *launcher, *script]
        environment = {**ENVIRONMENT, **LAUNCHER_ENVIRONMENT, "GLOO_SOCKET_IFNAME": self.port}
        with self.log(folder).open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def log(self, folder):
        return folder.parent / f"{folder.name}_{self.name}.log"

    def set_link(self, state):
        ip("-netns", self.name, "link", "set", self.port, state)

    def kill_all(self):
        for process in ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def ip(*words):
    """What the command says."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout  # noqa: S607


@contextlib.contextmanager
def connected(first, second):
    """Makes the machines; afterwards they are gone, as are those that an earlier run has left, with all they run."""
    remove(first, second)
    try:
        for machine in (first, second):
            ip("netns", "add", machine.name)
        ip("link", "add", first.port, "netns", first.name, "type", "veth", "peer", second.port, "netns", second.name)
        for machine in (first, second):
            ip("-netns", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.port)
            ip("-netns", machine.name, "link", "set", "lo", "up")
            machine.set_link("up")
        yield
    finally:
        remove(first, second)


def remove(*machines):
    known = ip("netns", "list").split()
    for machine in machines:
        if machine.name in known:
            machine.kill_all()
            ip("netns", "delete", machine.name)


def trained(folder, epochs, first, second, events=(), moments=None):
    """Trains on both machines, while the events happen to the second one, and waits for the end.

    Returns:
        The number of events that have happened.
    """
    folder.mkdir()
    running = {machine: machine.call_torchrun(folder, epochs) for machine in (first, second)}
    happened = 0
    for event in events:
        if moment_comes(folder, running, moments):
            happen(event, folder, epochs, second, running)
            happened += 1
    until = time.monotonic() + NO_END
    for machine, torchrun in running.items():
        code = "nothing yet"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = torchrun.wait(max(0, until - time.monotonic()))
        if code:
            logs = "\n".join(f"{each.name}:\n{each.log(folder).read_text()[-6000:]}" for each in running)
            sys.exit(f"{logs}\ntorchrun on {machine.name} has returned {code}")
    return happened


def moment_comes(folder, running, moments):
    """Waits for some more steps, at times shorter: while processes start. False if torchrun has ended somewhere."""
    is_start = moments.random() < 0.3
    more = MOST_STEPS if is_start else moments.randint(1, MOST_STEPS)
    seconds = moments.uniform(0, STARTING) if is_start else NO_END
    before, until = steps_saved(folder), time.monotonic() + seconds
    while steps_saved(folder) < before + more and time.monotonic() < until:
        if any(torchrun.poll() is not None for torchrun in running.values()):
            return False
        time.sleep(0.02)
    time.sleep(moments.uniform(0, 0.2))
    return True


def happen(event, folder, epochs, machine, running):
    tell(f"{event} after {steps_saved(folder)} steps")
    machine.set_link("down")
    if event == "reboot":
        machine.kill_all()
        running[machine].wait()
    time.sleep(LINK_DOWN[event])
    machine.set_link("up")
    tell(f"it is back; {steps_saved(folder)} steps were saved")
    if event == "reboot":
        running[machine] = machine.call_torchrun(folder, epochs)


def tell(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", nargs="+", choices=LINK_DOWN, default=list(LINK_DOWN), help="%(default)s")
    parser.add_argument("--writer", choices=("first", "second"), default="second", help="of the states (%(default)s)")
    parser.add_argument("--cut", type=float, metavar="SECONDS", help=f"how long a cut lasts ({LINK_DOWN['cut']})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (%(default)s)")
    arguments = parser.parse_args()
    LINK_DOWN["cut"] = arguments.cut or LINK_DOWN["cut"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the machines are removed
    # torchrun gives ranks in the order of addresses.
    addresses = ("10.77.0.1", "10.77.0.2") if arguments.writer == "first" else ("10.77.0.2", "10.77.0.1")
    first = Machine("encapkeras_first", addresses[0], "to_second", rendezvous=addresses[0])
    second = Machine("encapkeras_second", addresses[1], "to_first", rendezvous=addresses[0])
    epochs = 2 + (MOST_STEPS + 2) * len(arguments.events) // STEPS_AN_EPOCH  # enough for all events
    with tempfile.TemporaryDirectory() as place, connected(first, second):
        whole, parts = Path(place, "whole"), Path(place, "parts")
        tell(f"{epochs} epochs")
        trained(whole, epochs, first, second)
        tell("were trained undisturbed")
        moments = random.Random(arguments.seed)  # noqa: S311
        happened = trained(parts, epochs, first, second, arguments.events, moments)
        found = differences(whole, parts)
        steps, samples = count_of(parts, "optimizer", "/iteration"), count_of(parts, "seen", "/count")
    tell(f"{happened} events; {steps} steps in {epochs} epochs, {samples} samples in the last")
    print("\n".join(found) or "equal: weights, statistics, optimizer, metrics, predictions")
    return 1 if found or happened < len(arguments.events) else 0


if __name__ == "__main__":
    sys.exit(main())
