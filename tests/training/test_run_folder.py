import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support.tiny_spec import tiny_spec

from encapkeras import load_spec
from encapkeras.errors import RunFolderError
from encapkeras.files import replacing, write_json
from encapkeras.plugins import Plugin
from encapkeras.training import train
from encapkeras.training.callbacks import Stopwatch
from encapkeras.training.run.run_folder import RunFolder

OURS = {"encapkeras": "0.1.0", "seed": 0}


def made(path, overwrite=False):
    folder = RunFolder(path)
    folder.create({"name": "tiny"}, OURS, overwrite, needed_bytes=0)
    return folder


def contents(path):
    """All files but the lock, by name."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_new_folder_holds_the_spec_and_the_environment(tmp_path):
    folder = made(tmp_path / "deep" / "run")
    assert json.loads(folder.environment.read_text()) == {**OURS, "plugins": [], "resumed": []}
    assert folder.spec.read_text() == "name: tiny\n"


def test_an_empty_folder_is_used(tmp_path):
    made(tmp_path)
    assert set(contents(tmp_path)) == {"spec.yaml", "environment.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_foreign_files_is_refused_and_kept(tmp_path, overwrite):
    (tmp_path / "spec.yaml").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.keras").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="not belong to a run"):
        made(tmp_path, overwrite)
    assert contents(tmp_path) == before


def test_a_run_is_refused_and_kept(tmp_path):
    folder = made(tmp_path)
    folder.best.write_text("weights")
    with pytest.raises(RunFolderError, match=r"already exists\..*--overwrite"):
        made(tmp_path)  # there is nothing that it could be continued from
    (folder.resume / "epoch_1_step_1.pt").write_text("state")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"already exists\..*unfinished run in it with: .* --resume") as refused:
        made(tmp_path)
    assert "--overwrite" not in str(refused.value)
    assert contents(tmp_path) == before
    folder.results.write_text("{}")
    with pytest.raises(RunFolderError, match=r"already exists\..*--overwrite"):
        made(tmp_path)


def test_overwrite_replaces_the_run_and_keeps_what_is_not_of_it(tmp_path):
    folder = made(tmp_path)
    for file in (
        folder.best,
        folder.last,
        folder.metrics,
        folder.results,
        folder.tensorboard / "events.out.tfevents.1",
    ):
        file.write_text("old")
    kept = {"notes.md", "checkpoints/mine.keras", "tensorboard/mine.txt"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    made(tmp_path, overwrite=True)
    assert set(contents(tmp_path)) == kept | {"spec.yaml", "environment.json"}


def test_overwrite_removes_unfinished_files(tmp_path):
    made(tmp_path)
    for name in (
        "tensorboard/projector/.labels.partial.tsv",
        "analysis/perturbed/.a_1_c.partial.png",
        "checkpoints/.best.0123456789abcdef.partial.keras",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    made(tmp_path, overwrite=True)
    assert set(contents(tmp_path)) == {"spec.yaml", "environment.json"}


def test_hidden_files_of_the_user_are_neither_removed_nor_taken_for_ours(tmp_path):
    kept = {".download.partial", ".my notes.partial.txt", "tensorboard/.notes.partial.tsv", "plugins/.own.partial.py"}
    folder = made(tmp_path / "run")
    for name in kept:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("mine")
    folder.note_resumption({"name": "tiny"}, OURS, [])
    assert kept < set(contents(folder.path))
    made(folder.path, overwrite=True)
    assert set(contents(folder.path)) == kept | {"spec.yaml", "environment.json"}
    (tmp_path / ".download.partial").write_text("mine")
    shutil.rmtree(folder.path)
    with pytest.raises(RunFolderError, match="not belong to a run"):
        made(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        made(tmp_path / "file")
    with pytest.raises(RunFolderError, match=r"file"):
        made(tmp_path / "file" / "run")


def test_a_read_only_parent_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write everywhere
    with pytest.raises(RunFolderError, match="locked is read-only"):
        made(tmp_path / "locked" / "run")


def test_a_system_folder_that_takes_no_files_is_named():
    with pytest.raises(RunFolderError, match="--run-dir"):
        made("/proc/run")


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"needs about 1,000,000,000 MB"):
        folder.create({}, OURS, overwrite=False, needed_bytes=10**15)
    assert list(tmp_path.iterdir()) == []


def test_default_folders_never_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = RunFolder.default("tiny")
    assert first.path.parts[:2] == ("runs", "tiny")
    first.path.mkdir(parents=True)
    assert RunFolder.default("tiny").path != first.path


@pytest.mark.parametrize("others", [True, False])
def test_a_claimed_folder_that_is_not_used_goes_with_what_was_made_for_it(tmp_path, monkeypatch, others):
    monkeypatch.chdir(tmp_path)
    if others:
        Path("runs").mkdir()
    with pytest.raises(KeyError), RunFolder.claimed("mine") as folder:
        assert folder.path.is_dir()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] * others
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(("name", "folder"), [("../../x", "__.._x"), ("..", "_"), ("a b/c", "a_b_c")])
def test_default_folders_stay_in_runs(name, folder):
    assert RunFolder.default(name).path.parts[:-1] == ("runs", folder)


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with (
        pytest.raises(RunFolderError, match=r"results\.json could not be written: No space left"),
        replacing(path) as file,
    ):
        file.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"results.json": b'{\n  "a": 1\n}\n'}


def test_check_run_says_what_is_missing(tmp_path):
    with pytest.raises(RunFolderError, match="is not a folder"):
        RunFolder(tmp_path / "none").check_run()
    with pytest.raises(RunFolderError, match=r"spec\.yaml and environment\.json are missing"):
        RunFolder(tmp_path).check_run()
    (tmp_path / "spec.yaml").write_text("")
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(RunFolderError, match="not written by encapkeras"):
        RunFolder(tmp_path).check_run()


def test_the_chosen_checkpoint_is_the_best_where_there_is_validation(tmp_path):
    folder = made(tmp_path)
    for validated in (True, False):
        with pytest.raises(RunFolderError, match="no checkpoint: it stopped before"):
            folder.chosen(validated)
    folder.last.write_text("weights")
    assert folder.chosen(validated=False) == folder.last
    folder.best.write_text("weights")
    assert folder.chosen(validated=True) == folder.best


@pytest.mark.parametrize("validated", [True, False])
def test_no_other_checkpoint_is_taken_for_a_missing_one(tmp_path, validated):
    folder = made(tmp_path)
    present, missing = (folder.last, folder.best) if validated else (folder.best, folder.last)
    present.write_text("weights")
    with pytest.raises(RunFolderError, match=rf"{missing.name} is missing: .* {present.name} is not used in its place"):
        folder.chosen(validated)


def disk_with(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_overwrite_on_a_full_disk_keeps_the_run(tmp_path, monkeypatch):
    folder = made(tmp_path / "run")
    folder.best.write_bytes(b"w" * 1000)
    before = contents(tmp_path)
    disk_with(monkeypatch, free=0)
    with pytest.raises(RunFolderError, match="Free some space"):
        folder.create({}, OURS, overwrite=True, needed_bytes=10_000)
    assert contents(tmp_path) == before


def test_the_space_of_the_run_that_is_replaced_counts_as_free(tmp_path, monkeypatch):
    folder = made(tmp_path / "run")
    folder.best.write_bytes(b"w" * 1000)
    disk_with(monkeypatch, free=100)
    folder.create({}, OURS, overwrite=True, needed_bytes=1000)
    assert not folder.best.exists()


def test_a_full_disk_leaves_no_folder_behind(tmp_path, monkeypatch):
    disk_with(monkeypatch, free=0)
    with pytest.raises(RunFolderError, match="Free some space"):
        RunFolder(tmp_path / "deep" / "run").create({}, OURS, overwrite=False, needed_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_nothing_but_what_is_left_of_a_run_that_could_not_begin_is_free(tmp_path):
    for name in ("checkpoints", "tensorboard"):
        (tmp_path / name).mkdir()
    (tmp_path / ".environment.partial.json").write_text("{")  # as if it were killed
    made(tmp_path)
    assert set(contents(tmp_path)) == {"spec.yaml", "environment.json"}


def test_a_folder_whose_replacement_broke_off_is_still_ours(tmp_path, monkeypatch):
    folder = made(tmp_path)
    folder.best.write_text("weights")

    def full(file, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(RunFolderError, match="No space left"):
        patched.setattr(Path, "write_text", full)
        made(tmp_path, overwrite=True)
    made(tmp_path, overwrite=True)
    assert set(contents(tmp_path)) == {"spec.yaml", "environment.json"}


def plugin(tmp_path, name="mine.py"):
    return Plugin(name, tmp_path / name, b"# ours", ModuleType("mine"), {"layer": ["mine"]})


def test_overwrite_keeps_the_users_own_files_in_folders_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create({"name": "tiny"}, OURS, False, 0, [plugin(tmp_path)])
    folder.lock.close()
    ours = ["tensorboard/projector/vectors.tsv", "analysis/test/best/events.out.tfevents.1", "analysis/epochs.csv"]
    kept = [
        "plugins/other.py",
        "tensorboard/projector/notes.tsv",
        "analysis/test/routing_notes.txt",
        "bad_batches/a.npz",
    ]
    for name in [*ours, *kept]:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("mine")
    again = RunFolder(folder.path)
    again.create({"name": "tiny"}, OURS, True, 0, [plugin(tmp_path, "other.py")])
    copies = [record["copy"] for record in again.read_environment()["plugins"]]
    assert copies == ["plugins/2_other.py"]  # the user's own has the other name
    assert set(contents(folder.path)) == {*kept, *copies, "spec.yaml", "environment.json"}
    assert all((folder.path / name).read_text() == "mine" for name in kept)


def test_overwrite_removes_links_and_nothing_that_they_lead_to(tmp_path):
    folder, away = made(tmp_path / "run"), tmp_path / "away"
    names = ["vectors.tsv", "events.out.tfevents.1", "mine.py", "metrics.csv"]
    away.mkdir()
    for name in names:
        (away / name).write_text("mine")
    shutil.rmtree(folder.tensorboard)
    for name in ("tensorboard", "plugins", "bad_batches", "notes"):
        (folder.path / name).symlink_to(away)
    folder.metrics.symlink_to(away / "metrics.csv")
    made(folder.path, overwrite=True)
    assert sorted(path.name for path in away.iterdir()) == sorted(names)
    assert all((away / name).read_text() == "mine" for name in names)
    assert [path.name for path in folder.path.iterdir() if path.is_symlink()] == ["notes"]
    assert folder.tensorboard.is_dir() and list(folder.tensorboard.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/resume"])
def test_a_link_in_place_of_the_folder_of_weights_is_refused(tmp_path, name):
    folder = made(tmp_path / "run")
    folder.lock.close()
    (tmp_path / "away").mkdir()
    shutil.rmtree(folder.path / name)
    (folder.path / name).symlink_to(tmp_path / "away")
    before = contents(folder.path)
    with pytest.raises(RunFolderError, match=f"{name} is a symbolic link"):
        made(folder.path, overwrite=True)
    assert contents(folder.path) == before and list((tmp_path / "away").iterdir()) == []


def test_a_run_with_a_link_in_it_is_not_continued(tmp_path):
    folder = made(tmp_path / "run")
    folder.check_links()
    folder.metrics.symlink_to(tmp_path / "victim.csv")
    with pytest.raises(RunFolderError, match=r"metrics\.csv is a symbolic link"):
        folder.check_links()


@pytest.mark.parametrize("fails", range(1, 8))
def test_an_error_while_a_run_is_replaced_leaves_it_as_it_was(tmp_path, monkeypatch, fails):
    folder = RunFolder(tmp_path / "run")
    folder.create({"name": "old"}, OURS, False, 0, [plugin(tmp_path)])
    for file in (folder.best, folder.metrics, folder.tensorboard / "events.out.tfevents.1"):
        file.write_text("old")
    before, moves, move = contents(folder.path), [], os.replace

    def failing(source, target):
        moves.append(source)
        if len(moves) == fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        move(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(RunFolderError, match="Input/output error"):
        RunFolder(folder.path).create({"name": "new"}, {**OURS, "seed": 1}, True, 0)
    assert contents(folder.path) == before
    assert not [entry for entry in folder.path.iterdir() if entry.name.startswith(".")]


class Killed(BaseException):
    """The process ends here."""


def replaced_until(monkeypatch, path, moves):
    """Replace the run, and be killed after some moves: nothing is put back."""
    move, left = os.replace, [moves]

    def limited(source, target):
        if not left[0]:
            raise Killed
        left[0] -= 1
        move(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", limited)
        patch.setattr(os.path, "lexists", lambda path: False)
        patch.setattr(shutil, "rmtree", lambda path, **options: None)
        made(path, overwrite=True)


@pytest.mark.parametrize("moves", range(3, 9))  # two write the new files, five move the old ones
def test_a_replacement_that_was_killed_is_said_and_can_be_undone(tmp_path, monkeypatch, moves):
    run = tmp_path / "my run"
    folder = made(run)
    for file in (folder.best, folder.metrics, folder.results):
        file.write_text("old")
    (folder.resume / "epoch_1_step_1.pt").write_text("state")
    before = contents(run)
    folder.lock.close()
    replaced_until(monkeypatch, run, moves)
    [aside] = run.glob(".replaced.*")
    for check in (folder.check_free, folder.check_run, lambda: resumed(run)):
        with pytest.raises(
            RunFolderError, match=r"cut short; the older run's files are in (.*)\. Move them back"
        ) as said:
            check()
        assert str(aside / "old") in str(said.value) and "train --resume" not in str(said.value)
    assert str(said.value).endswith(f"train SPEC --run-dir '{run}' --overwrite")
    other = shutil.copytree(run, tmp_path / "other")
    made(other, overwrite=True)
    assert sorted(entry.name for entry in other.iterdir() if entry.name.startswith(".")) == []
    for file in [file for file in (aside / "old").rglob("*") if file.is_file()]:
        file.replace(run / file.relative_to(aside / "old"))
    shutil.rmtree(aside)
    assert contents(run) == before
    folder.check_run()


def resumed(run):
    train(load_spec(tiny_spec()), run, resume=True)


def test_folders_of_earlier_replacements_are_removed_and_links_are_not_followed(tmp_path):
    folder = made(tmp_path / "run")
    (folder.path / ".replaced.0123456789abcdef.partial/old/tensorboard").mkdir(parents=True)
    (folder.path / ".replaced.partial").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (folder.path / ".replaced.fedcba9876543210.partial").symlink_to(tmp_path / "mine")
    made(folder.path, overwrite=True)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"
    assert [entry.name for entry in folder.path.iterdir() if entry.name.startswith(".")] == [".replaced.partial"]


def test_something_else_where_a_run_writes_is_found_before_anything_is_removed(tmp_path):
    folder = made(tmp_path)
    folder.best.write_text("old")
    folder.metrics.mkdir()
    with pytest.raises(RunFolderError, match=r"metrics\.csv is a folder, where a run has a file"):
        made(tmp_path, overwrite=True)
    folder.metrics.rmdir()
    folder.tensorboard.rmdir()
    folder.tensorboard.write_text("")
    with pytest.raises(RunFolderError, match="tensorboard is a file, where a run has a folder"):
        made(tmp_path, overwrite=True)
    assert folder.best.read_text() == "old"


def test_a_run_that_another_process_trains_is_not_replaced(tmp_path):
    folder = made(tmp_path)
    folder.lock.close()
    folder.best.write_text("old")
    holding = f"import fcntl, time; f = open({str(folder.lock.path)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    command = [sys.executable, "-c", f"{holding}print('held', flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for check in (lambda: folder.check_free(overwrite=True), lambda: made(tmp_path, overwrite=True), folder.hold):
            with pytest.raises(RunFolderError, match="is being trained by another process"):
                check()
        other.kill()
    assert folder.best.read_text() == "old" and folder.lock.path.is_file()
    made(tmp_path, overwrite=True)


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"[" * 100_000, None], ids=["list", "no text", "deep", "pipe"])
def test_a_note_that_is_damaged_is_one_clear_error(tmp_path, content):
    folder = RunFolder(tmp_path)
    if content is None:
        os.mkfifo(folder.environment)  # nobody writes to it
    else:
        folder.environment.write_bytes(content)
    folder.check_plugins()
    with pytest.raises(RunFolderError, match="belong to a run"):
        folder.check_free(overwrite=True)
    if content != b"[]":
        with pytest.raises(RunFolderError, match=r"environment\.json cannot be read as the note of a training"):
            folder.read_environment()


@pytest.mark.parametrize("name", ["", "checkpoints", "tensorboard", "checkpoints/resume"])
def test_a_folder_that_becomes_a_link_during_the_training_is_not_written_through(tmp_path, monkeypatch, name):
    run, victim, begin = tmp_path / "run", tmp_path / "victim", Stopwatch.on_epoch_begin

    def replace_by_link(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1:
            (run / name).rename(tmp_path / "aside")
            shutil.copytree(tmp_path / "aside", victim)
            (run / name).symlink_to(victim)
            before.update(contents(victim))

    before = {}
    monkeypatch.setattr(Stopwatch, "on_epoch_begin", replace_by_link)
    with pytest.raises(RunFolderError, match="replaced by a link"):
        train(load_spec(tiny_spec(epochs=3)), run)
    assert contents(victim) == before != {}
