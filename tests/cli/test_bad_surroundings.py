"""Commands in unusual surroundings: names, variables and folders, and output that cannot be written."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from support.commands import refused
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
pack X -o packed
pack RUN -o X
push X someone/name
pull someone/name -o X
search X
search SPEC --run-dir X
compare X quickstart
compare quickstart plain_small --run-dir X
compare quickstart plain_small --resume X
evaluate X
evaluate RUN X --affine
evaluate RUN --explain --images 2 -o X
evaluate RUN --per-class -o X.csv
predict X IMAGE
predict RUN X
predict RUN IMAGE --csv X.csv
explain X IMAGE
explain RUN X
explain RUN IMAGE -o X
analyse X
analyse RUN --output X
analyse RUN --perturb --output X
runs X
check X
check X.yaml quickstart
check quickstart --plugin X.py
show X
show quickstart --diff X
show quickstart --svg X.svg
new X.yaml --dataset digits
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
bench data --dataset X
bench step --network X
bench all --quick --only transport --json X
""".splitlines()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with an image, a spec, and a file in place of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (32, 32), "white").save("image.png")
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


@pytest.mark.parametrize("line", [line for line in WITH_A_PATH if re.search("path:|root:|--path|--root", line)])
def test_homes_that_are_not_there(line, folder, capsys, monkeypatch):
    monkeypatch.delenv("HOME")
    message = refused(capsys, *words_of(line, "~no_such_user/x"))
    assert "~no_such_user/x" in message


@pytest.mark.parametrize("line", WITH_A_PATH)
def test_a_working_folder_that_is_gone(line, folder, capsys, monkeypatch):
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    message = refused(capsys, *words_of(line, "x"))
    assert message == "the working folder does not exist any more. Change to another one with cd.\n"


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"])
@pytest.mark.parametrize("line", ["train tiny.yaml", "train --resume run"])
def test_variables_of_torchrun_that_are_not_numbers(name, line, folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, "abc")
    message = refused(capsys, *line.split())
    assert message.startswith(f"the environment variable {name} must be a whole number, as torchrun sets it; received")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train"}))
def test_a_world_size_that_is_not_a_number(command, folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "abc")
    line = next(line for line in WITH_A_PATH if line.startswith(command))
    assert "WORLD_SIZE must be a whole number" in refused(capsys, *words_of(line, "x"))


WITH_OUTPUT = """\
evaluate RUN
evaluate RUN --json
evaluate RUN --per-class
predict RUN IMAGE
check SPEC
show SPEC
show SPEC --mermaid
show SPEC --diff quickstart
new a.yaml --dataset digits
specs
specs quickstart
format SPEC --to json
schema -o a.json
export RUN --format keras
--help
""".splitlines()


CLOSED = "import os, sys; os.close({0}); sys.{1} = sys.__{1}__ = None; "
HOW = {  # what stands before the program
    ">/dev/full": "",
    "2>/dev/full": "",
    ">&-": CLOSED.format(1, "stdout"),
    "2>&-": CLOSED.format(2, "stderr"),
    "| head -n 1": "",
}


def redirected(words, how):
    """Runs a command; the process in between needs its files open, so that the command closes them itself."""
    command = shlex.join([*warm_python(), "-c", HOW[how] + PROGRAM, *words])
    shell = ["sh", "-c", command if HOW[how] else f"{command} {how}"]
    return subprocess.run(shell, capture_output=True, text=True)


@pytest.mark.parametrize("line", WITH_OUTPUT)
def test_output_that_cannot_be_written(line, folder, tiny_run):
    done = redirected(words_of(line, "", tiny_run), ">/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the output could not be written: No space left on device"
    assert "Traceback" not in done.stderr
    done = redirected(words_of(line, "", tiny_run), "2>/dev/full")
    assert done.returncode in (0, 2)  # 2: the file is there
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>/dev/full", "2>&-"])
def test_a_training_is_finished_without_its_output(redirection, folder):
    done = redirected(["train", "tiny.yaml", "--run-dir", "run"], redirection)
    assert (folder / "run" / "results.json").is_file()
    assert done.returncode == (0 if redirection.startswith("2") else 1)
    why = {">/dev/full": "No space left on device", ">&-": "it is closed"}.get(redirection)
    assert done.stderr == (f"the output could not be written: {why}\n" if why else "")


def test_a_training_is_finished_without_its_reader(folder):
    done = redirected(["train", "tiny.yaml", "--run-dir", "run"], "| head -n 1")
    assert (folder / "run" / "results.json").is_file()
    assert done.stderr == ""


def test_a_closed_output_does_not_end_in_a_file_of_the_command(folder):
    command = shlex.join([sys.executable, "-c", PROGRAM, "new", "a.yaml", "--dataset", "digits"])
    assert subprocess.run(["/bin/sh", "-c", f"{command} >&- 2>&-"]).returncode == 1
    assert (folder / "a.yaml").read_text().startswith("#")
    assert "wrote" not in (folder / "a.yaml").read_text()


def test_warnings_are_lines_without_the_place_in_our_code(folder, tiny_run):
    Image.new("L", (32, 32)).save("black.png")
    command = [*warm_python(), "-c", PROGRAM, "predict", str(tiny_run), "black.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.startswith("warning: pixels of the images: the largest is 0 of 1")
    assert ".py" not in done.stderr


ESCAPES = "\x1b[31mred\x1b[0m \x9b2J\u202e[red][/]"


def test_names_do_not_control_the_terminal(folder, tiny_run, capsys):
    """In errors, tables, warnings and what argparse says, on both streams."""
    name = ESCAPES.replace("/", "")
    (folder / f"{name}.py").write_text("raise ValueError('\\x1b[31m')")
    shutil.copytree(tiny_run, folder / name)
    Image.new("L", (32, 32), "white").save(f"{name}.png")
    (folder / f"{name}.yaml").write_text("spec: 1")
    for words in (
        [name],
        ["train", name],
        ["evaluate", f"{name}x"],
        ["evaluate", name, "--per-class"],
        ["predict", name, f"{name}.png", "image.png"],
        ["predict", f"{name}x", f"{name}.png"],
        ["explain", name, f"{name}.png"],
        ["explain", name, "image.png", "--class", name],
        ["check", f"{name}.yaml"],
        ["check", "quickstart", "--plugin", f"{name}.py"],
        ["show", "quickstart", "--set", f"name={name}"],
        ["specs", name],
        ["export", f"{name}x", "--format", "keras"],
        ["bench", name],
        ["evaluate", name, "--split", name],
        ["--debug", "evaluate", f"{name}x"],
    ):
        main(words)
        printed = capsys.readouterr()
        assert printed.err or printed.out
        assert not re.search("[\x1b\x9b\u202e]", printed.out + printed.err), words


def test_debug_shows_where_an_error_arose(folder, capsys, monkeypatch):
    plain = refused(capsys, "evaluate", "nowhere")
    for words in (["--debug", "evaluate", "nowhere"], ["evaluate", "--debug", "nowhere"]):
        assert main(words) == 2
        message = capsys.readouterr().err
        assert message.startswith(plain + "Traceback (most recent call last):\n")
        assert message.rstrip().endswith(f"RunFolderError: {plain.rstrip()}")
    monkeypatch.setenv("ENCAPKERAS_DEBUG", "1")
    assert main(["train", "nowhere.yaml"]) == 2
    assert "SpecError" in capsys.readouterr().err
    monkeypatch.delenv("ENCAPKERAS_DEBUG")
    (folder / "p.py").write_text("try:\n    int('a')\nexcept ValueError as e:\n    raise KeyError from e\n")
    assert main(["check", "quickstart", "--plugin", "p.py", "--debug"]) == 2
    assert "ValueError: invalid literal" in capsys.readouterr().err
    assert main(["bench", "data", "--dataset", "nothing", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


NOT_UTF8 = os.fsdecode(b"caf\xe9")


def test_folders_and_files_whose_names_are_not_utf8(folder, tiny_run, capsys):
    for line in ("train SPEC --run-dir X", "compare SPEC quickstart --run-dir X"):
        assert "its path is not UTF-8. Choose another" in refused(capsys, *words_of(line, NOT_UTF8, tiny_run))
    (folder / f"{NOT_UTF8}.py").write_text("import encapkeras\n")
    assert "registers nothing" in refused(capsys, "check", "quickstart", "--plugin", f"{NOT_UTF8}.py")
    Image.new("L", (32, 32), "white").save(f"{NOT_UTF8}.png")
    assert main(["predict", str(tiny_run), f"{NOT_UTF8}.png", "--csv", f"{NOT_UTF8}.csv"]) == 0
    assert "caf\\udce9.png: " in capsys.readouterr().out
    assert "caf\\udce9.png,1," in (folder / f"{NOT_UTF8}.csv").read_text()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there is no pseudo-terminal")
def test_a_progress_bar_is_drawn_and_names_beside_it_are_escaped(folder):
    (folder / "p.py").write_text(
        "import keras, sys, encapkeras\n"
        "@encapkeras.register_layer('noisy')\n"
        "class Noisy(keras.layers.Layer):\n"
        "    '''A layer.'''\n"
        "    def call(self, x):\n"
        "        print('\\x1b[41mname\\x1b[0m', file=sys.stderr)\n"
        "        return x\n"
    )
    spec = tiny_spec(epochs=1)
    spec["model"]["nodes"]["drop"] = {"layer": "noisy", "inputs": "hidden"}
    write_spec(folder, spec)
    terminal, other = os.openpty()
    command = [*warm_python(), "-c", PROGRAM, "train", "tiny.yaml", "--plugin", "p.py", "--run-dir", "run"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(command, stdout=other, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert process.communicate()[1].startswith("\\x1b[41mname\\x1b[0m\n")
    assert process.returncode == 0
    assert b"\x1b[2K" in shown and rb"\x1b" not in shown.replace(rb"\x1b[41mname\x1b[0m", b"")
