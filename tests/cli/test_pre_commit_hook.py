"""The hook by which other repositories check their specs, in the real pre-commit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("pre-commit") and shutil.which("git")), reason="needs git and pre-commit"),
]


def commit(folder, **files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git = ["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Begin"]):
        subprocess.run([*git, *command], cwd=folder, check=True)


def test_a_commit_with_a_broken_base_is_refused(tmp_path):
    commit(tmp_path / "hooks", **{HOOKS.name: HOOKS.read_text()})
    spec = "spec: encapkeras/1\nextends: [quickstart.yaml, base/recipe.yaml]\n"
    commit(tmp_path / "mine", **{"specs/mine.yaml": spec, "specs/base/recipe.yaml": "train: {epohcs: 3}\n"})
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
    command = ["pre-commit", "try-repo", str(tmp_path / "hooks"), "--files", "specs/base/recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path / "mine", env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "specs/base/recipe.yaml:1:9  train.epohcs" in done.stdout
    assert "1 spec: 0 ok, 1 with errors, 1 file without the key 'spec' skipped" in done.stdout
