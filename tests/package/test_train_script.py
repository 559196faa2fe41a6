"""`python train.py` where encapkeras cannot run: one sentence that says what to do."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "train.py"


def refused(*arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and not done.stdout and "Traceback" not in done.stderr
    return done.stderr


def test_python_without_the_requirements():
    without_packages = refused("-S", str(SCRIPT), "quickstart")
    assert f"not installed for {sys.executable}" in without_packages and "pip install -e ." in without_packages


def test_python_that_is_too_old():
    start = f"import runpy, sys; sys.version_info = (3, 8, 10); runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    assert "needs Python 3.11 or newer" in refused("-c", start) and "3.8" in refused("-c", start)
