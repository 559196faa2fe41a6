"""Files are read with one clear error, and nothing but regular files is opened; links lead no writing elsewhere."""

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import encapkeras.files
from encapkeras.analysis import append_csv
from encapkeras.callbacks import MetricsFile
from encapkeras.errors import DataError, RunFolderError, TrainingError
from encapkeras.files import FileLock, make_folder, make_new_folder, open_regular, read_member, reading, replacing
from encapkeras.text import quoted
from encapkeras.training.run.resume_state import cut_back
from encapkeras.training.tensorboard.event_file import open_event_file


def test_every_error_of_a_library_becomes_one_that_names_the_file():
    for cause in (ValueError("odd bytes"), RecursionError(), OSError(5, "Input/output error"), KeyError("x")):
        with pytest.raises(DataError, match=r"^box\.xml cannot be read as boxes: .+\. Replace it$") as caught:
            with reading("box.xml", "boxes", DataError, "Replace it"):
                raise cause
        assert caught.value.__cause__ is cause


def test_a_library_that_quotes_the_whole_file_is_cut_short():
    with pytest.raises(DataError) as caught, reading("box.xml", "boxes", DataError, "Replace it"):
        raise ValueError("x" * 100_000)
    assert len(str(caught.value)) < 1100 and str(caught.value).endswith("…. Replace it")


def test_our_own_errors_and_lack_of_memory_pass_unchanged():
    for error in (TrainingError("ours"), MemoryError()):
        with pytest.raises(type(error)) as caught, reading("x", "boxes", DataError):
            raise error
        assert caught.value is error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"abc"


def test_a_file_that_is_written_is_new_and_no_link_leads_it_elsewhere(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "table.csv"
    victim.write_text("mine")
    (tmp_path / ".table.partial.csv").symlink_to(victim)  # the name that earlier versions wrote to
    path.symlink_to(victim)
    names = []
    for _ in range(2):
        with replacing(path) as file:
            names.append(file.name)
            file.write_text("new")
    assert victim.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()
    assert len(set(names)) == 2 and sorted(file.name for file in tmp_path.iterdir())[1:] == ["table.csv", "victim"]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_link_that_is_put_in_the_place_of_an_unfinished_file_is_not_moved_to_the_end(tmp_path):
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(RunFolderError, match="symbolic link"), replacing(tmp_path / "table.csv") as file:
        file.unlink()
        file.symlink_to(tmp_path / "victim")
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


@pytest.mark.parametrize("mode", ["ab", "r+b", "xb"])
def test_links_are_followed_to_read_alone(tmp_path, mode):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"mine"
    with pytest.raises(OSError, match="symbolic link"):
        open_regular(tmp_path / "link", mode)
    with pytest.raises(OSError, match="symbolic link"):
        make_folder(tmp_path / "link")


def test_a_lock_is_kept_until_its_last_holder_here_closes_it(tmp_path):
    def is_free():
        code = "import sys; from pathlib import Path; from encapkeras.files import FileLock as L; "
        code += f"sys.exit(L(Path({str(tmp_path / 'lock')!r})).acquire())"
        return subprocess.run([sys.executable, "-c", code]).returncode == 1

    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire() and other.acquire()
    one.close()
    assert not FileLock(tmp_path / "lock").is_held_elsewhere()
    assert not is_free()
    other.close()
    assert is_free()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_look_at_a_lock_by_another_process_refuses_it_to_nobody(tmp_path, monkeypatch):
    def lockf(file, flags):
        if len(answers) > 1:
            raise answers.pop()

    answers = [BlockingIOError(errno.EAGAIN, "busy")] * 3
    monkeypatch.setattr("fcntl.lockf", lockf)
    assert FileLock(tmp_path / "lock").acquire()


def test_locks_of_windows_keep_other_processes_out(tmp_path, monkeypatch):
    def locking(descriptor, mode, size):
        if (tmp_path / "held").exists():
            raise PermissionError(errno.EACCES, "Permission denied")

    spec = importlib.util.spec_from_file_location("files_of_windows", encapkeras.files.__file__)
    of_windows = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
        spec.loader.exec_module(of_windows)
    lock = of_windows.FileLock(tmp_path / "lock")
    (tmp_path / "held").touch()
    assert not lock.acquire()
    (tmp_path / "held").unlink()
    assert lock.acquire()
    lock.close()


def test_a_lock_is_removed_where_open_files_cannot_be(tmp_path, monkeypatch):
    def unlink(path, missing_ok=False):
        if any(os.path.samestat(os.fstat(file.fileno()), path.stat()) for file, _ in FileLock._held.values()):
            raise PermissionError(errno.EACCES, "in use", str(path))
        removes(path, missing_ok)

    removes = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink)
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    lock.remove()
    assert not list(tmp_path.iterdir())


def test_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    for system, words in {"nt": ['"my run"', "it's"], "posix": ["'my run'", "'it'\"'\"'s'"]}.items():
        with monkeypatch.context() as patch:
            patch.setattr(os, "name", system)
            found = [quoted("my run"), quoted("it's")]
        assert found == words


def add_row(folder):
    MetricsFile(folder / "table").on_epoch_end(3, {"loss": 1.0})


def add_event(folder):
    (folder / "table").unlink()
    writer = open_event_file(folder)
    (event_file,) = folder.iterdir()
    os.link(event_file, folder.parent / "backup" / "events")
    before = event_file.read_bytes()
    writer.add_scalar("loss", 1.0, 1)
    assert event_file.read_bytes().startswith(before) and len(event_file.read_bytes()) > len(before)
    assert (folder.parent / "backup" / "events").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: cut_back([(folder / "table", {".": 11})]),
        add_row,
        lambda folder: append_csv(folder / "table", [SimpleNamespace(measurements=[])]),
        add_event,
    ],
    ids=["cut", "row", "analysis", "event"],
)
def test_a_backup_of_hard_links_keeps_what_it_has(tmp_path, change):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "table").write_text("epoch,loss\n1,3\n2,2\n")
    shutil.copytree(tmp_path / "run", tmp_path / "backup", copy_function=os.link)
    change(tmp_path / "run")
    assert (tmp_path / "backup" / "table").read_text() == "epoch,loss\n1,3\n2,2\n"


@pytest.mark.parametrize("lost", ["runs", "runs/mine"])
def test_a_new_folder_is_made_while_other_processes_remove_those_above_it(tmp_path, monkeypatch, lost):
    def mkdir(path, *arguments):
        if path.name == "now" and not calls:
            calls.append(shutil.rmtree(tmp_path / lost))
        makes(path, *arguments)

    calls, makes = [], Path.mkdir
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.chdir(tmp_path)
    made = make_new_folder(lambda: Path("runs/mine/now"))
    assert calls and list(map(str, made)) == ["runs", "runs/mine", "runs/mine/now"]
    assert made[-1].is_dir()


def test_a_folder_that_can_never_be_made_is_an_error(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        make_new_folder(lambda: tmp_path / "runs" / "mine")


def test_of_an_archive_no_more_is_read_than_was_allowed(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small", b"abc")
        archive.writestr("large", b"a" * 10**6)
    with zipfile.ZipFile(tmp_path / "archive") as archive:
        assert read_member(archive, "small", 3) == b"abc"
        with pytest.raises(ValueError, match="its large has more than 1,000 bytes"):
            read_member(archive, "large", 1000)
