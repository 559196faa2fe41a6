import sys

import pytest
import torch

from encapkeras.training.memory.peak_memory import PeakMemory

CPU = torch.device("cpu")
MIB = 2**18  # numbers in a mebibyte of float32

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


def test_the_peak_counts_not_what_is_left():
    memory = PeakMemory()
    for _ in range(3):
        block = torch.ones(100 * MIB)
        del block
    kept = torch.ones(10 * MIB)
    assert 95 < memory.mebibytes(CPU) < 130
    assert len(kept)


def test_what_was_there_before_does_not_count():
    before = torch.ones(200 * MIB)
    blocks = [torch.ones(MIB // 64) for _ in range(64 * 100)]  # small ones, which the allocator would keep when freed
    del blocks
    memory = PeakMemory()
    block = torch.ones(50 * MIB)
    small = [torch.ones(MIB // 64) for _ in range(64 * 50)]
    assert 95 < memory.mebibytes(CPU) < 130  # what was freed before is not there to be used for nothing
    assert len(before) and len(block) and len(small)


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("encapkeras.training.memory.peak_memory._STATUS", tmp_path / "none")
    assert PeakMemory().mebibytes(CPU) is None
