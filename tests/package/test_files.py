"""Files are read with one clear error, and nothing but regular files is opened; links lead no writing elsewhere."""

import os
import subprocess
import sys

import pytest

from encapkeras.errors import DataError, RunFolderError, TrainingError
from encapkeras.files import FileLock, make_folder, open_regular, reading, replacing


def test_every_error_of_a_library_becomes_one_that_names_the_file():
    for cause in (ValueError("odd bytes"), RecursionError(), OSError(5, "Input/output error"), KeyError("x")):
        with pytest.raises(DataError, match=r"^box\.xml cannot be read as boxes: .+\. Replace it$") as caught:
            with reading("box.xml", "boxes", DataError, "Replace it"):
                raise cause
        assert caught.value.__cause__ is cause


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
