"""`encapkeras bench all`: its file, its time limit, parts that fail; once, slowly, all of it on tiny sizes."""

import json

import pytest

from encapkeras.benchmarks import all_parts, everything, time_line
from encapkeras.benchmarks.everything import Part, Session
from encapkeras.cli import bench
from encapkeras.cli.main import main


def session(folder, seconds=60.0, say=lambda line: None):
    return Session(folder / "all.json", seconds, "cpu", {"quick": True}, say)


def test_the_file_has_every_part_after_it_was_measured(tmp_path):
    def second():
        kept.append(json.loads((tmp_path / "all.json").read_text()))
        return {"x": 2}

    kept, lines = [], []
    parts = [Part("a:1", lambda: {"x": 1}), Part("a:2", second)]
    report = session(tmp_path, say=lines.append).run(parts)
    (before,) = kept
    assert list(before["parts"]) == ["a:1"] and before["left_out"] == {"a:2": "no time left"} and not before["finished"]
    assert json.loads((tmp_path / "all.json").read_text())["parts"]["a:2"]["figures"] == {"x": 2}
    assert report["finished"] and report["left_out"] == report["errors"] == {}
    assert [line.partition(":")[0] for line in lines] == ["a", "a"]


ERRORS = [MemoryError("no memory"), RuntimeError("\nCUDA out of memory. Tried\nto"), KeyError()]


@pytest.mark.parametrize("error", ERRORS)
def test_a_part_that_fails_is_an_error_and_the_rest_goes_on(tmp_path, error):
    def fail():
        raise error

    report = session(tmp_path).run([Part("a:1", fail), Part("a:2", lambda: 2)])
    assert list(report["parts"]) == ["a:2"] and list(report["errors"]) == ["a:1"]
    expected = {MemoryError: "MemoryError: no memory", RuntimeError: "RuntimeError: CUDA out of memory. Tried"}
    assert report["errors"]["a:1"] == expected.get(type(error), "KeyError")


def test_ctrl_c_leaves_what_was_measured(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session(tmp_path).run([Part("a:1", lambda: 1), Part("a:2", interrupted)])
    kept = json.loads((tmp_path / "all.json").read_text())
    assert list(kept["parts"]) == ["a:1"] and not kept["finished"]


def test_parts_that_would_not_end_in_time_are_listed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(everything.time, "perf_counter", lambda: now[0])

    def lasting(seconds):
        def measure():
            now[0] += seconds

        return measure

    parts = [
        Part("long:1", lasting(40)),
        Part("long:2", lasting(40)),  # would end after 80 of 60 seconds
        Part("short:1", lasting(1)),
        Part("short:1:compiled", lasting(1), seconds=30),  # of another kind
        Part("short:2", lasting(1)),
        Part("elsewhere:1", lasting(1), left_out="needs a GPU"),
    ]
    report = session(tmp_path, 60).run(parts)
    assert list(report["parts"]) == ["long:1", "short:1", "short:2"]
    assert report["left_out"] == {
        "long:2": "no time left",
        "short:1:compiled": "no time left",
        "elsewhere:1": "needs a GPU",
    }
    assert report["parts"]["long:1"]["seconds"] == 40 and report["minutes"] == 1


def test_kinds_are_those_of_the_command():
    for device in ("cpu", "cuda"):
        parts = all_parts.make_parts(all_parts.FULL, device)
        assert {part.name.partition(":")[0] for part in parts} == set(bench.KINDS)
        assert len({part.name for part in parts}) == len(parts)


def test_a_gpu_has_all_parts_and_a_cpu_those_without_tf32_and_compiler():
    everywhere = {part.name: part.left_out for part in all_parts.make_parts(all_parts.FULL, "cuda")}
    assert not {name for name, reason in everywhere.items() if reason and not name.startswith("transport")}
    steps = [name for name in everywhere if name.startswith("step:")]
    assert len(steps) == 5 * 3 * 2
    on_cpu = {part.name for part in all_parts.make_parts(all_parts.FULL, "cpu") if not part.left_out}
    assert [name for name in steps if name in on_cpu] == [
        name for name in steps if not name.endswith("compiled") and "tf32" not in name
    ]


def test_idle_is_the_time_without_any_kernel():
    overlapping = [(10.0, 20.0), (0.0, 4.0), (15.0, 25.0), (30.0, 40.0), (32.0, 33.0)]
    shares = time_line.shares(overlapping, steps=2)
    assert shares["idle_share"] == pytest.approx(1 - (4 + 15 + 10) / 40)
    assert shares["kernels_per_step"] == 2.5
    assert shares["kernel_milliseconds_per_step"] == pytest.approx(0.0145)
    assert shares["milliseconds_per_step"] == pytest.approx(0.02)
    with pytest.raises(RuntimeError, match="saw no kernel"):
        time_line.shares([], steps=1)


def test_the_command_writes_some_kinds(tmp_path, capsys):
    file = tmp_path / "all.json"
    assert main(f"bench all --quick --device cpu --only transport --json {file}".split()) == 0
    report = json.loads(file.read_text())
    assert set(report["parts"]) | set(report["left_out"]) == {"transport:unit", "transport:pot"}
    assert report["parts"]["transport:unit"]["figures"]["features"] == 64
    assert f"see {file}" in capsys.readouterr().out


def test_the_command_ends_with_1_where_a_part_failed(tmp_path, monkeypatch, capsys):
    def fail():
        raise RuntimeError("it broke")

    monkeypatch.setattr(all_parts, "make_parts", lambda sizes, device: [Part("train:x", fail), Part("train:y", dict)])
    assert main(f"bench all --device cpu --json {tmp_path / 'all.json'}".split()) == 1
    out = capsys.readouterr().out
    assert "train:x: RuntimeError: it broke" in out and "1 parts measured, 0 left out, 1 failed" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "required: --json"),
        ("--json all.json --minutes 0", "--minutes must be a number above 0; received 0.0"),
        ("--json all.json --minutes nan", "--minutes must be a number above 0; received nan"),
        ("--json no/such/all.json", "is not a folder. Create it first"),
        ("--json there.json", "already exists. Name another file with --json"),
        ("--json all.json --only steps", "invalid choice: 'steps'"),
    ],
)
def test_impossible_options(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    assert main(["bench", "all", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["there.json"]


@pytest.mark.slow
def test_all_of_it_on_tiny_sizes(tmp_path):
    file = tmp_path / "all.json"
    assert main(f"bench all --quick --device cpu --json {file}".split()) == 0
    report = json.loads(file.read_text())
    assert report["finished"] and not report["errors"]
    reasons = {all_parts.WITHOUT_GPU, "compares with POT: pip install 'encapkeras[bench]'"}
    assert set(report["left_out"].values()) <= reasons
    for name in all_parts.NETWORKS:
        figures = report["parts"][f"step:{name}:float32"]["figures"]
        assert figures["network"] == name and figures["multiple_of_convolutions"] > 0
    assert report["parts"]["train:quickstart"]["figures"]["images_per_second"] > 0
    assert report["parts"]["routing:em"]["figures"]["largest_difference_float64"] < 1e-9
