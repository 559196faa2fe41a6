import errno
import json
import os

import pytest

from encapkeras.errors import RunFolderError
from encapkeras.training import RunFolder
from encapkeras.training.run_folder import replacing, write_json

OURS = {"encapkeras": "0.1.0", "seed": 0}


def made(path, overwrite=False):
    folder = RunFolder(path)
    folder.create({"name": "tiny"}, OURS, overwrite, needed_bytes=0)
    return folder


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_folder_holds_the_spec_and_the_environment(tmp_path):
    folder = made(tmp_path / "deep" / "run")
    assert json.loads(folder.environment.read_text()) == OURS
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
    with pytest.raises(RunFolderError, match="not of a run"):
        made(tmp_path, overwrite)
    assert contents(tmp_path) == before


def test_a_run_is_refused_and_kept(tmp_path):
    folder = made(tmp_path)
    folder.best.write_text("weights")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"exists already\..*--overwrite"):
        made(tmp_path)
    assert contents(tmp_path) == before


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
    assert contents(tmp_path) == {}


def test_default_folders_never_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = RunFolder.default("tiny")
    assert first.path.parts[:2] == ("runs", "tiny")
    first.path.mkdir(parents=True)
    assert RunFolder.default("tiny").path != first.path


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
    with pytest.raises(RunFolderError, match="is no folder"):
        RunFolder(tmp_path / "none").check_run()
    with pytest.raises(RunFolderError, match=r"spec\.yaml and environment\.json missing"):
        RunFolder(tmp_path).check_run()
    (tmp_path / "spec.yaml").write_text("")
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(RunFolderError, match="not of encapkeras"):
        RunFolder(tmp_path).check_run()
    (tmp_path / "environment.json").write_text(json.dumps(OURS))
    with pytest.raises(RunFolderError, match="no checkpoint"):
        RunFolder(tmp_path).check_run()


def test_the_chosen_checkpoint_is_the_best_where_there_is_one(tmp_path):
    folder = made(tmp_path)
    assert folder.chosen == folder.last
    folder.best.write_text("weights")
    assert folder.chosen == folder.best
