"""`encapkeras bench routing`: once with the processes that measure memory, else on tiny sizes."""

import json
import sys

from encapkeras.benchmarks import routing
from encapkeras.cli.main import main


def test_json_and_the_memory_of_the_votes(capsys):
    sizes = "--batch-size 4 --types 8 --positions 64 --dim 8 --outputs 128 --out-dim 16 --rounds 1".split()
    assert main(["bench", "routing", *sizes, "--routing", "dynamic", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    check(report, "dynamic")
    votes = 4 * 4 * 8 * 64 * 128 * 16 / 2**20
    memory = report["peak_extra_memory_megabytes"]
    if sys.platform == "linux":  # other systems count what the parent process had
        assert memory["textbook"] > votes
        assert memory["vote-free"] < votes
        assert report["memory_ratio"] == memory["textbook"] / memory["vote-free"]
    table = routing.as_table(report)
    assert table.startswith("dynamic routing: batch_size 4, types 8, positions 64")
    assert f"1/{report['memory_ratio']:.1f} of the memory" in table


def test_both_routings_at_the_smallest_sizes(capsys, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    sizes = [f"--{name}=1" for name in "batch-size types positions dim outputs out-dim iterations rounds".split()]
    assert main(["bench", "routing", *sizes]) == 0
    out = capsys.readouterr().out
    assert out.index("dynamic routing: batch_size 1") < out.index("em routing: batch_size 1")
    assert out.count("memory too small to measure") == out.count("times the floor") == 2


def test_em_routing(monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda _, way, *__: {"vote-free": 2.0, "textbook": 8.0}[way])
    report = routing.measure("em", routing.Sizes(2, 2, 4, 3, 5, 4, 3), rounds=2, device="cpu")
    check(report, "em")
    assert report["memory_ratio"] == 4


def check(report, name):
    assert report["routing"] == name
    total = report["forward_and_backward_milliseconds_per_sample"]
    assert set(total) == {"vote-free", "textbook", "floor"}
    assert report["speed_up"] == total["textbook"] / total["vote-free"]
    assert report["multiple_of_floor"] == total["vote-free"] / total["floor"]
    assert report["forward_milliseconds_per_sample"]["vote-free"] < total["vote-free"]
    assert report["largest_difference_float64"] < 1e-10
    assert 0 < report["relative_error_float32"]["vote-free"] < 1e-4


def test_impossible_sizes(capsys):
    assert main(["bench", "routing", "--outputs", "0"]) == 2
    assert "--outputs must be at least 1; received 0" in capsys.readouterr().err
