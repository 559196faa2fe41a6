import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from encapkeras.errors import RunFolderError
from encapkeras.files import replacing, write_json
from encapkeras.training.run.run_folder import RunFolder

OURS = {"encapkeras": "0.1.0", "seed": 0}


def made(path, overwrite=False):
    folder = RunFolder(path)
    folder.create({"name": "tiny"}, OURS, overwrite, needed_bytes=0)
    return folder


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


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
    for name in ("tensorboard/projector/.labels.partial.tsv", "analysis/perturbed/.a_b_c.partial.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("half")
    made(tmp_path, overwrite=True)
    assert set(contents(tmp_path)) == {"spec.yaml", "environment.json"}


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
