"""All benchmarks in one go, within a time limit, into one file that is complete after each part."""

from __future__ import annotations

import contextlib
import gc
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import torch

from encapkeras import __version__
from encapkeras.benchmarks.runner import OtherProcesses, device_name
from encapkeras.files import write_json
from encapkeras.functional.kernels.choice import chosen_kernels

NO_TIME = "no time left"


@dataclass(frozen=True)
class Part:
    """What is measured by itself.

    Attributes:
        name: Its kind, a colon and what else tells it apart, such as `step:encapnet_ot:tf32`.
        measure: Measures it, and returns plain data.
        left_out: Why it is not measured here; empty if it is.
        seconds: How long it may take, as long as none of its kind was measured.
    """

    name: str
    measure: Callable[[], Any]
    left_out: str = ""
    seconds: float = 10.0

    @property
    def kind(self) -> str:
        """What parts of about the same duration share."""
        return self.name.partition(":")[0] + ":compiled" * self.name.endswith(":compiled")


@dataclass
class Session:
    """Measures parts until the time is over, and writes all that is known after each.

    Attributes:
        file: The JSON file.
        seconds: The time limit. A part starts only if the longest of its kind so far would still end within it.
        device: Where it is computed.
        settings: What else the file says about the measurement.
        say: Called with a line about each part.
    """

    file: Path
    seconds: float
    device: str
    settings: dict[str, Any]
    say: Callable[[str], None]
    parts: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start = time.perf_counter()
        self._longest: dict[str, float] = {}

    def run(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Measure the parts in their order; return what the file has in the end."""
        remaining = list(parts)
        self.left_out |= {part.name: NO_TIME for part in remaining}  # until each has had its turn
        self.write()
        for part in remaining:
            if part.left_out:
                self.left_out[part.name] = part.left_out
            elif self._elapsed() + self._longest.get(part.kind, part.seconds) < self.seconds:
                self._measure(part)
            if part.name in self.left_out:
                self.say(f"{part.name}: left out, {self.left_out[part.name]}")
            self.write()
        self.write(finished=True)
        return self.report(finished=True)

    def report(self, finished: bool) -> dict[str, Any]:
        """Return all that is known."""
        return {
            "encapkeras": __version__,
            "torch": str(torch.__version__),
            "keras": str(keras.__version__),
            "python": platform.python_version(),
            "device": device_name(self.device),
            "kernels": chosen_kernels(),
            **self.settings,
            "minutes": self.seconds / 60,
            "seconds": round(self._elapsed(), 1),
            "finished": finished,
            "parts": self.parts,
            "errors": self.errors,
            "left_out": self.left_out,
        }

    def write(self, finished: bool = False) -> None:
        """Write it, whole or not at all."""
        write_json(self.file, self.report(finished))

    def _measure(self, part: Part) -> None:
        started, others = time.perf_counter(), OtherProcesses()
        del self.left_out[part.name]
        try:
            figures = part.measure()
        except Exception as error:  # whatever a part raises, the others are measured
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            self.errors[part.name] = f"{type(error).__name__}: {reason}".rstrip(": ")
            self.say(f"{part.name}: {self.errors[part.name]}")
        else:
            seconds = time.perf_counter() - started
            about = {"seconds": round(seconds, 1), "other_cores": others.cores()}
            self.parts[part.name] = {**about, "figures": figures}
            self.say(f"{part.name}: {seconds:.1f} s")
        gc.collect()  # networks are in cycles of references
        if self.device == "cuda":
            with contextlib.suppress(RuntimeError):  # after a failure of the GPU everything is one
                torch.cuda.empty_cache()
        self._longest[part.kind] = max(self._longest.get(part.kind, 0), time.perf_counter() - started)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._start
