"""Files are read with one clear error, and nothing but regular files is opened."""

import os

import pytest

from encapkeras.errors import DataError, TrainingError
from encapkeras.files import open_regular, reading


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
