import json
import shutil
import subprocess
import sys

import pytest
from support.commands import refused
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import load_spec
from encapkeras.callbacks import MetricsFile
from encapkeras.cli.main import main
from encapkeras.training import train


class Killed(Exception):
    """The process ends here."""


def kill(*arguments):
    raise Killed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs at every stage: finished, in the middle, damaged, in a comparison's folder."""
    folder = tmp_path_factory.mktemp("made")
    finished, unfinished = folder / "runs/tiny/2026-01-02_10-00-00", folder / "runs/tiny/2026-01-03_10-00-00"
    spec = load_spec(tiny_spec(epochs=1))
    train(spec, finished)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MetricsFile, "on_epoch_end", kill)
        train(spec, unfinished)
    for number, name in enumerate(("compare/all/seed_0/tiny", "broken/a", "broken/b", "broken/c"), 4):
        dated(shutil.copytree(finished, folder / "runs" / name), number)
    dated(finished, 2)
    dated(unfinished, 3)
    (folder / "runs/broken/a/spec.yaml").write_text("{")
    (folder / "runs/broken/b/environment.json").write_text("[]")
    (folder / "runs/broken/c/results.json").write_bytes(b"\xff")
    (folder / "runs/loop").symlink_to(folder / "runs")
    (folder / "runs/notes.txt").touch()
    return folder


def dated(run, day):
    file = run / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": f"2026-01-{day:02}T10:00:00+00:00"}))


@pytest.fixture
def here(made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def listed(capsys, *words):
    assert main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_runs_are_listed_the_newest_first(here, capsys):
    rows = listed(capsys)
    assert {row["folder"]: row["state"] for row in rows} == {
        "runs/broken/c": "damaged",
        "runs/broken/a": "damaged",
        "runs/broken/b": "damaged",
        "runs/compare/all/seed_0/tiny": "finished",
        "runs/tiny/2026-01-03_10-00-00": "unfinished",
        "runs/tiny/2026-01-02_10-00-00": "finished",
    }
    dates = [row["started"] for row in rows if row["started"]]
    assert dates == sorted(dates, reverse=True)
    finished = rows[-1]
    results = json.loads((here / finished["folder"] / "results.json").read_text())
    assert (finished["spec"], finished["epoch"], finished["epochs"]) == ("tiny", 1, 1)
    assert finished["test_accuracy"] == results["test_accuracy"]
    assert finished["validation_accuracy"] == pytest.approx(results["validation_accuracy"])


def test_the_table_names_what_is_damaged_and_how_to_continue(here, capsys):
    assert main(["runs"]) == 0
    *table, damaged_b, damaged_c, damaged_a, last = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["run", "spec", "state", "epoch", "validation", "test", "started"]
    assert table[-1].split()[:4] == ["runs/tiny/2026-01-02_10-00-00", "tiny", "finished", "1/1"]
    assert damaged_a.startswith("runs/broken/a is damaged: run runs/broken/a cannot be used, as its spec.yaml")
    assert damaged_c.startswith("runs/broken/c is damaged: runs/broken/c/results.json cannot be read")
    assert "environment.json" in damaged_b
    assert last == ("continue the newest unfinished run with: encapkeras train --resume runs/tiny/2026-01-03_10-00-00")


def test_runs_that_cannot_be_continued_are_not_recommended(here, capsys):
    run, path = here / "runs/tiny/2026-01-03_10-00-00", write_spec(here, tiny_spec(epochs=1))
    shutil.rmtree(run / "checkpoints/resume")
    assert {row["folder"]: row["state"] for row in listed(capsys)}[str(run.relative_to(here))] == "unfinished"
    assert main(["runs"]) == 0 and main(["evaluate", str(run)]) == 0 and main(["train", str(path)]) == 0
    printed = capsys.readouterr()
    assert "is unfinished" in printed.err and "--resume" not in printed.out + printed.err


def test_a_folder_without_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "runs is not a folder" in refused(capsys, "runs")
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert "there is no latest run" in refused(capsys, "evaluate", "latest")


HOLDS = (
    "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


def test_a_run_that_another_process_trains_is_said_to_be_training(here, capsys):
    unfinished = "runs/tiny/2026-01-03_10-00-00"
    lock = here / unfinished / "checkpoints/resume/.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert {row["folder"]: row["state"] for row in listed(capsys)}[unfinished] == "training"
        process.communicate()
    assert {row["folder"]: row["state"] for row in listed(capsys)}[unfinished] == "unfinished"


def test_the_latest_run_is_named_by_latest(here, capsys):
    shutil.rmtree("runs/broken")
    assert main(["evaluate", "latest"]) == 0
    assert capsys.readouterr().err.startswith("the latest run is runs/compare/all/seed_0/tiny\n")
    shutil.rmtree("runs/compare")
    assert main(["train", "--resume", "latest"]) == 0
    assert capsys.readouterr().err.startswith("the latest run is runs/tiny/2026-01-03_10-00-00\n")
    shutil.copytree("runs/tiny/2026-01-02_10-00-00", "latest")
    assert main(["export", "latest", "--format", "keras", "-o", "x.keras"]) == 0
    assert "the latest run is" not in capsys.readouterr().err


def test_a_new_run_names_the_newest_unfinished_one_of_its_spec(here, capsys):
    path = write_spec(here, tiny_spec(epochs=1))
    assert main(["train", str(path)]) == 0
    run = "runs/tiny/2026-01-03_10-00-00"
    said = f"an unfinished run of 'tiny' is in {run}. Continue that with: encapkeras train --resume {run}\n"
    assert said in capsys.readouterr().out
