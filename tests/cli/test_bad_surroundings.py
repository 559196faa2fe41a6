"""What commands say where the surroundings are not as usual: names, variables, folders, and output that goes nowhere."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import refused
from support.dataset_files import write_npz
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras.cli.main import COMMANDS, main

PROGRAM = "import sys; from encapkeras.cli.main import main; sys.exit(main(sys.argv[1:]))"
LONG = "a" * 5000

# Each command with a path in each place that takes one: X.
WITH_A_PATH = """\
train X
train X.yaml
train quickstart --run-dir X
train --resume X
train quickstart --plugin X.py
train quickstart --set data.root=X --set data.dataset=mnist --run-dir run
train quickstart --set data={dataset:\\ npz,path:\\ X}
train quickstart --set data={dataset:\\ image_folder,root:\\ X,image_size:\\ 32}
train quickstart --set data={dataset:\\ h_imagenet,root:\\ X,class_list:\\ X,boxes:\\ X}
compare X quickstart
compare quickstart plain_small --run-dir X
compare quickstart plain_small --resume X
evaluate X
evaluate RUN X --affine
evaluate RUN --per-class -o X.csv
predict X IMAGE
predict RUN X
predict RUN IMAGE --csv X.csv
analyse X
analyse RUN --output X
analyse RUN --perturb --output X
check X
check X.yaml quickstart
check quickstart --plugin X.py
show X
show quickstart --diff X
show quickstart --svg X.svg
new X.yaml
new a.yaml --dataset npz --path X
new a.yaml --dataset image_folder --root X
specs X
format X
format SPEC -o X.json
schema -o X.json
export X --format keras
export RUN --format keras -o X.keras
import-weights X CHECKPOINT -o a.keras
import-weights quickstart X -o a.keras
import-weights quickstart CHECKPOINT -o X.keras
export-weights X -o a.pth
export-weights RUN -o X.pth
bench data X
bench data --dataset X
""".splitlines()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with an image, a spec, and a file in place of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (32, 32)).save("image.png")
    (tmp_path / "c.pth").write_bytes(b"")
    write_spec(tmp_path, tiny_spec(epochs=1))
    return tmp_path


def words_of(line, path, run="run"):
    named = {"RUN": str(run), "IMAGE": "image.png", "SPEC": "tiny.yaml", "CHECKPOINT": "c.pth"}
    return [named.get(word, word.replace("X", path)) for word in shlex.split(line)]


def test_the_table_has_every_command():
    assert {line.split()[0] for line in WITH_A_PATH} == set(COMMANDS)


@pytest.mark.parametrize("line", WITH_A_PATH)
def test_names_that_are_too_long_for_the_system(line, folder, tiny_run, capsys):
    before = sorted(os.listdir(folder))
    assert main(words_of(line, LONG, tiny_run)) == 2
    printed = capsys.readouterr()
    assert printed.err and "Traceback" not in printed.err
    assert sorted(os.listdir(folder)) == before
