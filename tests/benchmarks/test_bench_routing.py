"""`encapkeras bench routing` on sizes that take no time."""

import json
import sys

import pytest

from encapkeras.cli.main import main

SMALL = "--batch-size 2 --types 2 --positions 4 --dim 3 --outputs 5 --out-dim 4 --rounds 2".split()


def test_both_routings_as_json(capsys):
    assert main(["bench", "routing", *SMALL, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["routing"] for report in reports] == ["dynamic", "em"]
    for report in reports:
        total = report["forward_and_backward_milliseconds_per_sample"]
        assert set(total) == {"vote-free", "textbook", "floor"}
        assert report["speed_up"] == total["textbook"] / total["vote-free"]
        assert report["forward_milliseconds_per_sample"]["vote-free"] < total["vote-free"]
        assert report["largest_difference_float64"] < 1e-10
        assert 0 < report["relative_error_float32"]["vote-free"] < 1e-4


def test_one_routing_as_a_table(capsys):
    assert main(["bench", "routing", *SMALL, "--routing", "dynamic"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dynamic routing: batch_size 2, types 2, positions 4")
    assert "times the floor" in out
    assert "em routing" not in out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count what the parent process had")
def test_the_votes_show_in_the_memory(capsys):
    sizes = "--batch-size 4 --types 8 --positions 64 --dim 8 --outputs 128 --out-dim 16 --rounds 1".split()
    assert main(["bench", "routing", *sizes, "--routing", "dynamic", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    votes = 4 * 4 * 8 * 64 * 128 * 16 / 2**20
    assert report["peak_extra_memory_megabytes"]["textbook"] > votes
    assert report["peak_extra_memory_megabytes"]["vote-free"] < votes


def test_impossible_sizes(capsys):
    assert main(["bench", "routing", "--outputs", "0"]) == 2
    assert "--outputs must be at least 1; received 0" in capsys.readouterr().err


def test_the_smallest_sizes(capsys):
    sizes = [f"--{name}=1" for name in "batch-size types positions dim outputs out-dim iterations rounds".split()]
    assert main(["bench", "routing", *sizes]) == 0
    assert "em routing: batch_size 1" in capsys.readouterr().out
