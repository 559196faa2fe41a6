"""`encapkeras bench transport` on sizes that take no time."""

import importlib
import json

import pytest

from encapkeras.benchmarks import transport as bench_transport
from encapkeras.cli.main import main

WAYS = {"encapkeras", "POT sinkhorn", "POT sinkhorn_log", "POT solve_sample", "floor"}


@pytest.fixture
def small_unit(monkeypatch):
    monkeypatch.setattr(bench_transport, "UNIT", (4, 4, 4, 2, 2))


@pytest.mark.smoke
@pytest.mark.usefixtures("small_unit")
def test_as_json(capsys):
    assert main("bench transport --batch-sizes 5 8 --rounds 2 --json".split()) == 0
    *sinkhorns, unit = json.loads(capsys.readouterr().out)
    assert [report["batch_size"] for report in sinkhorns] == [5, 8]
    for report in sinkhorns:
        total = report["forward_and_backward_milliseconds"]
        assert set(total) == WAYS
        assert report["speed_up"]["POT sinkhorn"] == total["POT sinkhorn"] / total["encapkeras"]
        assert report["multiple_of_floor"] == total["encapkeras"] / total["floor"]
        assert report["forward_milliseconds"]["encapkeras"] < total["encapkeras"]
        values = report["values"].values()
        assert min(values) == pytest.approx(max(values), rel=1e-4)  # all solve the same problem
    assert unit["features"] == 64
    assert set(unit["speed_up"]) == {"textbook", "textbook, divergence alone"}


@pytest.mark.usefixtures("small_unit")
def test_as_tables(capsys):
    assert main("bench transport --batch-sizes 4 --rounds 1".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("the value of transport: batch 4, 4 features, 10 iterations, epsilon 1;")
    assert "a whole unit without critic: batch 4, 64 features" in out
    assert out.count("times the floor") == 2


def test_the_unit_can_be_left_out(capsys):
    assert main("bench transport --batch-sizes 4 --rounds 1 --no-unit".split()) == 0
    assert "unit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-sizes 4 1", "--batch-sizes must be at least 2; received 1"),
        ("--features 0", "--features must be at least 1; received 0"),
        ("--epsilon 0", "epsilon must be a finite number above 0; received 0.0"),
        ("--iterations 0", "--iterations must be at least 1; received 0"),
    ],
)
def test_impossible_options(options, message, capsys):
    assert main(["bench", "transport", *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_without_pot(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["bench", "transport"]) == 2
    assert "compares with POT, which is not installed: pip install 'encapkeras[bench]'" in capsys.readouterr().err
