"""`train.py SPEC --processes N`: the processes start, train, end and report as one."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import started
from support.pages import commands
from support.processes import ENVIRONMENT, children, largest_difference, rows, wait_for
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python, warm_torchrun

ROOT = Path(__file__).parents[2]
TWO = ("--processes", "2")
PROGRAM = (
    "import sys; sys.executable = {python!r}; from encapkeras.cli.main import main; "
    "sys.exit(main(['train', *sys.argv[1:]], script='train.py'))"
)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words before those of `train.py`, which starts warm processes."""
    python = tmp_path_factory.mktemp("python") / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(warm_python())} "$@"\n')
    python.chmod(0o755)
    return [sys.executable, "-c", PROGRAM.format(python=str(python))]


def ran(command, *words, code=0):
    """What the processes printed."""
    whole = [*command, *map(str, words)]
    done = subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr[-4000:]
    assert "Traceback" not in done.stderr and "torch" not in done.stderr, done.stderr
    return done


def launched(command, *words):
    """A training on two processes, started."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return started([*command, *words, *TWO], env=ENVIRONMENT, **pipes)


def epochs(run):
    return len(rows(run)) if (run / "metrics.csv").is_file() else 0


def assert_same(one, other):
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    assert largest_difference(one, other, "best") == largest_difference(one, other, "last") == 0


@pytest.mark.slow
def test_a_training_equals_that_of_torchrun_bit_for_bit(tmp_path):
    words = ["quickstart", "--set", "train.epochs=2", "--set", "data.subset=400", "--run-dir"]
    torchrun = [*warm_torchrun(2), str(ROOT / "train.py"), *words, str(tmp_path / "torchrun")]
    subprocess.run(torchrun, check=True, env=ENVIRONMENT, capture_output=True)
    said = ran([sys.executable, str(ROOT / "train.py")], *words, tmp_path / "own", *TWO)
    assert_same(tmp_path / "torchrun", tmp_path / "own")
    assert said.stderr == ""
    assert said.stdout.count("run folder") == said.stdout.count("test accuracy") == 1
    noted = json.loads((tmp_path / "own" / "environment.json").read_text())
    assert (noted["processes"], noted["device"], noted["threads"]) == (2, "cpu", 1)
    assert noted["command"][1:] == [*words, str(tmp_path / "own"), *TWO]


@pytest.mark.slow
def test_the_commands_of_the_page_train_and_resume(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = [shlex.split(each) for each in commands(ROOT / "docs" / "scaling.md") if "--processes 2" in each]
    trained, resumed = (ran(command, *words[2:]).stdout for words in shown)
    assert "2 processes, each with " in trained
    assert "is finished already" in resumed


@pytest.mark.slow
def test_cores_are_divided_among_the_processes(tmp_path, command, monkeypatch):
    monkeypatch.delitem(ENVIRONMENT, "OMP_NUM_THREADS")
    path = write_spec(tmp_path, tiny_spec(epochs=1))
    ran(command, path, "--run-dir", tmp_path / "run", *TWO)
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert noted["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.slow
def test_one_process_starts_no_other(tmp_path, command):
    path = write_spec(tmp_path, tiny_spec(epochs=1))
    assert "processes" not in ran(command, path, "--run-dir", tmp_path / "run", "--processes", 1).stdout
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_after_the_step_and_the_run_goes_on(tmp_path, command, number, code):
    path, run = write_spec(tmp_path, tiny_spec(epochs=5000)), tmp_path / "run"
    with launched(command, path, "--run-dir", run) as process:
        wait_for(lambda: epochs(run) > 2)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.count(f"ended by {number.name} at ") == said.count("Continue with: ") == 1
    assert f"encapkeras train --resume {run} --processes 2\n" in said
    assert "Traceback" not in said and "torch" not in said
    done = epochs(run)
    assert "resumes at" in ran(command, "--resume", run, *TWO, "--set", f"train.epochs={done + 1}").stdout
    assert epochs(run) == done + 1


@pytest.mark.slow
def test_ctrl_c_while_the_processes_start_is_reported_once(tmp_path, command):
    with launched(command, write_spec(tmp_path, tiny_spec()), "--run-dir", tmp_path / "run") as process:
        wait_for(lambda: len(children(process)) == 2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # for a shell both are 130
    assert said.count("interrupted") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all_and_the_run_goes_on(tmp_path, command, rank):
    path = write_spec(tmp_path, tiny_spec(epochs=6, resume_state={"minutes": 1e-9}))
    ran(command, path, "--run-dir", tmp_path / "whole", *TWO)
    run = tmp_path / "parts"
    with launched(command, path, "--run-dir", run) as process:
        wait_for(lambda: epochs(run) > 1)
        os.kill(children(process)[rank], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.count(f"process {rank} of 2 was ended by SIGKILL") == 1
    assert said.count("has lost the others") == rank  # the first says so, and how to continue
    assert "Traceback" not in said and "torch" not in said
    assert "resumes at" in ran(command, "--resume", run, *TWO).stdout
    assert_same(tmp_path / "whole", run)


@pytest.mark.slow
def test_an_error_is_reported_once_and_changes_nothing(tmp_path, command):
    spec = tiny_spec()
    spec["data"]["batch_size"] = 127
    said = ran(command, write_spec(tmp_path, spec), "--run-dir", tmp_path / "run", *TWO, code=2).stderr
    assert said.count("127 images cannot be divided equally among 2") == len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_error_in_the_spec_is_reported_before_anything_is_started(tmp_path):
    words = [str(write_spec(tmp_path, tiny_spec(epochz=3))), *TWO]
    said = ran([sys.executable, str(ROOT / "train.py")], *words, code=2).stderr
    assert said.count("Did you mean 'epochs'?") == said.count("1 error found") == 1


@pytest.mark.slow
def test_under_torchrun_the_option_is_refused_once(tmp_path):
    path = write_spec(tmp_path, tiny_spec())
    torchrun = [*warm_torchrun(2), str(ROOT / "train.py"), str(path), *TWO]
    done = subprocess.run(torchrun, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode and not done.stdout
    assert done.stderr.count("--processes starts the processes itself, but torchrun, or a cluster, has started") == 1
