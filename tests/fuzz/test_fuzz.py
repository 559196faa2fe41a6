"""Changed files of every format are a clear error or a right result; `files.py` does the same with more."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.formats import FORMATS
from fuzz.mutations import changed_bytes, changed_tree

SECONDS = 360
SEED = 1  # always the same, so that a failure is the fault of a change; by hand, others
ROOT = Path(__file__).parents[2]


def printed_by(script, *words):
    """What a command prints that must find nothing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(ended.stdout, ended.stderr[-5000:])
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.slow
def test_six_minutes_of_all_formats():
    table = printed_by("files.py", "--seconds", str(SECONDS), "--seed", str(SEED))
    for name in FORMATS:
        assert re.search(rf"^{name} +[1-9]", table, re.MULTILINE), name


@pytest.mark.slow
def test_some_faults_of_the_system():
    """`faults.py` does the same with more."""
    if sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("needs Linux and a C compiler, gcc or cc, for the library that has calls fail")
    table = printed_by("faults.py", "--count", "10", "--seed", str(SEED))
    assert f"seed {SEED}" in table


def test_equal_seeds_make_equal_changes():
    data, tree = bytes(range(256)) * 4, {"a": [1, 2.5, {"b": "c"}], "d": None}
    for change, value in ((changed_bytes, data), (changed_tree, tree)):
        once, again = ([change(random.Random(n), value) for n in range(300)] for _ in range(2))  # noqa: S311
        assert repr(once) == repr(again)
        assert len(set(map(repr, once))) > 30
