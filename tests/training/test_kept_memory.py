"""Freed memory is kept where glibc allocates it, unless the user has said otherwise; elsewhere nothing happens."""

import ctypes
import json
import os
import platform
import subprocess
from types import SimpleNamespace

import pytest
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras.cli.main import main
from encapkeras.errors import ArgumentError
from encapkeras.training.memory import freed_memory_is_kept, keep_freed_memory

MODULE = "encapkeras.training.memory.kept_memory"
VARIABLE = "ENCAPKERAS_KEEP_MEMORY"
MALLOC = ctypes.c_void_p()
FAULTS = """
import resource, torch
from encapkeras.training.memory import keep_freed_memory
from encapkeras.training.memory.peak_memory import PeakMemory

def use():
    block = torch.ones(50 * 2**18)

def faults(uses):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(uses):
        use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults(30)
kept = keep_freed_memory()
faults(10)  # until there is room beside the small blocks that stay
print(kept, returned, faults(30))
peak = PeakMemory()
use()
print(peak.mebibytes(torch.device("cpu")))
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep memory by themselves")


def without_switch(**variables):
    ours = ("MALLOC_", "GLIBC_TUNABLES", VARIABLE)
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **variables}


def measured(**variables):
    command = [*warm_python(), "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=without_switch(**variables))
    kept, *numbers = done.stdout.split()
    return kept == "True", *map(float, numbers)


@needs_glibc
def test_kept_memory_is_not_faulted_in_again_and_the_peak_still_counts_it():
    kept, faults_before, faults, peak = measured()
    assert kept
    assert faults < faults_before / 10
    assert 45 < peak < 60


@needs_glibc
@pytest.mark.parametrize(
    "variables",
    [{VARIABLE: "0"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}],
)
def test_memory_is_returned_if_the_user_says_so(variables):
    kept, faults_before, faults, _ = measured(**variables)
    assert not kept
    assert faults > faults_before / 2


@needs_glibc
@pytest.mark.parametrize(("switch", "kept"), [({}, True), ({VARIABLE: "1"}, True), ({VARIABLE: "0"}, False)])
def test_the_command_train_keeps_memory_and_notes_it(tmp_path, switch, kept):
    spec = write_spec(tmp_path, tiny_spec(epochs=1))
    command = [*warm_python(), "-m", "encapkeras", "train", str(spec), "--run-dir", str(tmp_path / "run")]
    subprocess.run(command, capture_output=True, check=True, env=without_switch(**switch))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["keeps_freed_memory"] is kept


@pytest.mark.parametrize("words", [["train", "quickstart"], ["compare", "quickstart"], ["bench", "step"]])
def test_another_value_is_one_error(monkeypatch, capsys, words):
    monkeypatch.setenv(VARIABLE, "yes")
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "ENCAPKERAS_KEEP_MEMORY must be 1, to keep freed memory for the next step, or 0, to return it to the system; "
        "received 'yes'. Set it to one of these, or unset it, which is 1.\n"
    )
    with pytest.raises(ArgumentError):
        keep_freed_memory()


def no_library(name):
    raise TypeError("Windows takes no None")


def another_malloc(name):
    """Of a preloaded library, as `dladdr` tells."""

    def dladdr(address, symbol):
        symbol._obj.file = b"/usr/lib/libjemalloc.so.2"
        return 1

    return SimpleNamespace(gnu_get_libc_version=None, malloc=MALLOC, dladdr=dladdr, mallopt=pytest.fail)


@pytest.mark.parametrize("library", [no_library, lambda name: SimpleNamespace(), another_malloc])
def test_nothing_happens_elsewhere(monkeypatch, library):
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(f"{MODULE}.ctypes.CDLL", library)
    assert not keep_freed_memory()
    assert not freed_memory_is_kept()
