"""`encapkeras bench routing`: once with the processes that measure memory, else on tiny sizes."""

import json
import sys

import pytest

from encapkeras.benchmarks import routing, routing_methods, routing_sizes
from encapkeras.cli.main import main

TINY = {
    "batch_size": 2, "types": 2, "positions": 4, "map_size": 5, "dim": 3, "outputs": 5, "out_dim": 4, "pose_size": 2,
    "kernel_size": 3, "strides": 2, "padding": 1, "iterations": 3, "shared": 0,
}  # fmt: skip


IN_WINDOWS = [method for method, sizes in routing_sizes.METHODS.items() if "shared" in sizes]


def tiny(method, **changes):
    return {name: TINY[name] for name in routing_sizes.METHODS[method]} | changes


def test_json_and_the_memory_of_the_votes(capsys):
    sizes = "--batch-size 4 --types 8 --positions 64 --dim 8 --outputs 128 --out-dim 16 --rounds 1".split()
    assert main(["bench", "routing", *sizes, "--method", "dynamic", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    check(report, "dynamic")
    votes = 4 * 4 * 8 * 64 * 128 * 16 / 2**20
    memory = report["peak_extra_memory_megabytes"]
    if sys.platform == "linux":  # other systems count what the parent process had
        assert memory["textbook"] > votes
        assert memory["encapkeras"] < votes
        assert report["memory_ratio"] == memory["textbook"] / memory["encapkeras"]
    table = routing.as_table(report)
    assert table.startswith("dynamic: batch_size 4, types 8, positions 64")
    assert f"1/{report['memory_ratio']:.1f} of the memory" in table


def test_the_former_name_of_the_option_still_chooses_methods(capsys, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    sizes = [f"--{name}=1" for name in "batch-size types positions dim outputs out-dim iterations rounds".split()]
    assert main(["bench", "routing", *sizes, "--routing", "em", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["method"] == "em"


def test_the_default_methods_at_the_smallest_sizes(capsys, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    sizes = [f"--{name}=1" for name in "batch-size types positions dim outputs out-dim iterations rounds".split()]
    assert main(["bench", "routing", *sizes]) == 0
    out = capsys.readouterr().out
    assert out.index("dynamic: batch_size 1") < out.index("em: batch_size 1")
    assert out.count("memory too small to measure") == out.count("times the floor") == 2


@pytest.mark.parametrize("method", IN_WINDOWS)
def test_one_matrix_per_type_for_a_window(method, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    check(routing.measure(method, tiny(method, shared=1), rounds=1, device="cpu"), method)


@pytest.mark.parametrize("method", routing_sizes.METHODS)
def test_every_method(method, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda _, way, *__: {"encapkeras": 2.0, "textbook": 8.0}[way])
    report = routing.measure(method, tiny(method), rounds=2, device="cpu")
    check(report, method)
    assert report["memory_ratio"] == 4
    assert {name: report[name] for name in TINY if name in report} == tiny(method)
    assert routing.as_table(report).startswith(f"{method}: batch_size 2, ")


def test_every_method_has_sizes():
    assert list(routing_methods.METHODS) == list(routing_sizes.METHODS)


def test_methods_in_windows(capsys, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    sizes = "--batch-size 1 --map-size 4 --types 2 --outputs 2 --padding 0 --rounds 1".split()
    assert main(["bench", "routing", *sizes, "--method", "self-routing", "em-windows", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(report["method"], report["padding"], report["kernel_size"]) for report in reports] == [
        ("self-routing", 0, 3),
        ("em-windows", 0, 3),
    ]
    assert reports[0]["multiple_of_floor"] is None


def check(report, name):
    assert report["method"] == name
    total = report["forward_and_backward_milliseconds_per_sample"]
    assert set(total) - {"floor"} == {"encapkeras", "textbook"}
    assert report["speed_up"] == total["textbook"] / total["encapkeras"]
    if "floor" in total:
        assert report["multiple_of_floor"] == total["encapkeras"] / total["floor"]
    assert report["forward_milliseconds_per_sample"]["encapkeras"] < total["encapkeras"]
    assert report["largest_difference_float64"] < 1e-9
    assert 0 < report["relative_error_float32"]["encapkeras"] < 1e-4


def test_impossible_sizes(capsys, monkeypatch):
    monkeypatch.setattr(routing, "peak_memory", lambda *_: 0.0)
    for arguments, message in (
        (["--outputs", "0"], "--outputs must be at least 1; received 0"),
        (["--method", "em-windows", "--padding", "-1"], "--padding must be at least 0; received -1"),
        (["--method", "self-routing", "--iterations", "2"], "self-routing has no --iterations; it has --batch-size"),
        (["--method", "self-routing", "--map-size", "2", "--padding", "0"], "a window of 3 x 3 does not fit a map"),
    ):
        assert main(["bench", "routing", *arguments]) == 2
        assert message in capsys.readouterr().err
