import json
import os
import subprocess

import pytest
from support.commands import interrupted, refused
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras.cli.main import main
from encapkeras.validation import shown


@pytest.fixture
def specs(tmp_path):
    """Two specs with the same name, that of their files."""
    paths = []
    for units in (32, 8):
        content = tiny_spec(epochs=1)
        content["model"]["nodes"]["hidden"]["units"] = units
        (tmp_path / str(units)).mkdir()
        paths.append(str(write_spec(tmp_path / str(units), content)))
    return paths


def compare(*words):
    return main(["compare", *map(str, words)])


def test_a_comparison_and_its_resumption(specs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "new"
    assert compare(*specs, "--seeds", 2, "--run-dir", path, "--set", "data.batch_size=256") == 0
    printed = capsys.readouterr().out
    assert "run 4 of 4: tiny-2, seed 1" in printed
    (one,) = [line for line in printed.splitlines() if line.startswith(" tiny   ")]
    assert "2/2" in one and "2,410" in one and one.count(" ± ") == 3
    assert "Weights tested: best on validation. The test images were used once per run." in printed
    assert " vs tiny " in printed
    assert printed.endswith(f"4 of 4 runs finished.\nwritten to {path}\n")
    assert json.loads((path / "comparison.json").read_text())["seeds"] == [0, 1]

    assert "already holds a comparison" in refused(capsys, "compare", *specs, "--run-dir", path)
    assert "finished runs of other specs" in refused(capsys, "compare", *specs, "--seeds", 2, "--resume", path)
    assert compare(*specs, "--seeds", 2, "--resume", path, "--set", "data.batch_size=256", "--latex") == 0
    again, written, latex = capsys.readouterr().out.partition(f"written to {path}\n")
    assert latex == (path / "comparison.tex").read_text(encoding="utf-8")
    assert again.count("reused: ") == 4
    assert "run 1 of 4" not in again
    assert again[again.index("Accuracies") :] + written == printed[printed.index("Accuracies") :]


def test_a_sweep(specs, tmp_path, capsys):
    path = tmp_path / "new"
    sweep = ["--set", "sweep={grid: {model.nodes.hidden.units: [4, 8]}, seeds: [5]}"]
    assert "tiny' has a sweep" in refused(capsys, "train", specs[0], *sweep, "--run-dir", path)
    assert compare(specs[0], *sweep, "--run-dir", path) == 0
    printed = capsys.readouterr().out
    assert "run 2 of 2: tiny units=8, seed 5" in printed
    assert "Sorted by mean validation accuracy, best first" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith(" tiny ")]
    assert {row[1] for row in rows} == {"4", "8"}
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)
    assert compare(specs[0], *sweep, "--seeds", "2", "--run-dir", tmp_path / "two") == 0
    assert json.loads((tmp_path / "two" / "comparison.json").read_text())["seeds"] == [0, 1]


def test_a_list_of_seeds(specs, tmp_path):
    assert compare(specs[0], "--seeds", "0, 5", "--run-dir", tmp_path / "new") == 0
    assert json.loads((tmp_path / "new" / "comparison.json").read_text())["seeds"] == [0, 5]
    assert {entry.name for entry in (tmp_path / "new").glob("seed_*")} == {"seed_0", "seed_5"}


def test_a_list_of_one_seed(specs, tmp_path):
    assert compare(specs[0], "--seeds", "5,", "--run-dir", tmp_path / "new") == 0
    assert json.loads((tmp_path / "new" / "comparison.json").read_text())["seeds"] == [5]


@pytest.mark.parametrize(
    "seeds", ["0", "-1", "1,1", "x", "", ",", "1,,", "0,-1", "2.5", "3;4", "½", "1001", "9999999999", "9" * 5000]
)
def test_seeds_that_are_none(seeds, specs, tmp_path, capsys):
    message = refused(capsys, "compare", *specs, f"--seeds={seeds}", "--run-dir", tmp_path / "new")
    assert message == (
        "--seeds must be how many, from 1 to 1000, or a list of distinct seeds from 0, such as 0,5,7 ('5,' is a list "
        f"of one); received {shown(seeds)}\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_seed_that_is_too_large(specs, tmp_path, capsys):
    assert "from 0 to 4294967295" in refused(
        capsys, "compare", *specs, "--seeds", "0,4294967296", "--run-dir", tmp_path / "new"
    )


def test_a_failed_run_gives_exit_code_2_at_the_end(specs, tmp_path, capsys):
    too_fast = ["--set", "train.optimizer={kind: sgd, learning_rate: 1e30}", "--set", "train.epochs=2"]
    assert compare(*specs, "--seeds", 1, *too_fast, "--run-dir", tmp_path / "new") == 2
    printed = capsys.readouterr()
    assert "FAILED: tiny, seed 0: the loss became " in printed.out
    assert " of 2 runs finished." in printed.out
    assert printed.err == ""


def test_a_terminal_without_the_characters(specs, tmp_path):
    words = [specs[0], "--seeds", "2", "--run-dir", str(tmp_path / "new"), "--set", "train.optimizer={kind: sgd}"]
    done = subprocess.run(
        [*warm_python(), "-m", "encapkeras", "compare", *words],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mean ? standard deviation over the seeds 0, 1" in done.stdout
    assert "mean ± standard" in (tmp_path / "new" / "comparison.md").read_text(encoding="utf-8")


def test_mistakes_are_told_before_anything_is_done(specs, tmp_path, capsys):
    words = [*specs, "--seeds", 1, "--run-dir", tmp_path / "new"]
    assert "1 error found" in refused(capsys, "compare", *words, "--set", "train.epoch=3")
    assert "quickstrat" in refused(capsys, "compare", "quickstrat", *words)
    assert "--run-dir: not allowed with argument --resume" in refused(capsys, "compare", "--resume", "old", *words)
    assert "the following arguments are required: SPEC" in refused(capsys, "compare")
    assert not (tmp_path / "new").exists()


def test_ctrl_c_gives_exit_code_130_and_the_table(specs, tmp_path):
    path = tmp_path / "new"
    words = ["compare", *specs, "--seeds", "50", "--run-dir", str(path)]
    command = [*warm_python(), "-u", "-m", "encapkeras", *words]
    returncode, printed, message = interrupted(command, "run 3 of")
    assert returncode == 130
    assert "Traceback" not in message
    assert message.startswith("interrupted")
    command = f"encapkeras compare {' '.join(map(str, specs))} --seeds 50 --resume {path}"
    assert message.endswith(f" of 100 runs finished. Continue with:\n{command}\n")
    assert f"written to {path}\n" in printed
    assert "| tiny | 1/50 |" in (path / "comparison.md").read_text()
