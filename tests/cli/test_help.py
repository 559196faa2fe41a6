"""Help, examples, completion, and words that are not commands or options."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from support.commands import refused
from support.pages import PROJECT

from encapkeras import __version__
from encapkeras.cli import bench
from encapkeras.cli.arguments import devices
from encapkeras.cli.main import COMMANDS, main

EVERY = [[], *([name] for name in COMMANDS), *(["bench", name] for name in bench.BENCHMARKS)]


def printed(capsys, *words):
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_has_examples_that_are_right_and_the_page_of_the_docs(words, capsys, monkeypatch):
    text = printed(capsys, *words, "--help")
    examples, page = re.search(r"\nexamples:\n((?:  .+\n)+)\ndocumentation: (.+)\n$", text).groups()
    assert page.startswith(str(PROJECT / "docs")) and os.path.isfile(page)
    for module, _ in COMMANDS.values():
        monkeypatch.setattr(module, "run", lambda arguments: 0)
    monkeypatch.setattr(devices, "read_devices", lambda arguments: None)
    monkeypatch.setattr("encapkeras.plugins.load_plugin", lambda file: None)
    for example in examples.splitlines():
        program, *rest = shlex.split(example, comments=True)
        assert program == "encapkeras" and rest[: len(words)] == words
        assert main(rest) == 0, example


def test_the_address_is_that_of_the_site_where_the_project_names_one(capsys, monkeypatch):
    metadata = {"Project-URL": ["Source, https://example.org/x", "Documentation, https://example.org/docs/"]}
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: type("", (), {"get_all": metadata.get})())
    assert printed(capsys, "train", "--help").endswith("documentation: https://example.org/docs/train.html\n")


def test_no_command_prints_the_help_and_fails(capsys):
    for words in ([], ["bench"]):
        expected = printed(capsys, *words, "--help")
        assert refused(capsys, *words) == expected


def test_help_and_version(capsys):
    assert printed(capsys, "help") == printed(capsys, "--help")
    assert printed(capsys, "--debug", "help", "train") == printed(capsys, "help", "train")
    assert printed(capsys, "help", "bench", "step") == printed(capsys, "bench", "step", "--help")
    assert refused(capsys, "help", "trian") == "'trian' is not a command. Did you mean 'train'?\n"
    assert printed(capsys, "-V") == printed(capsys, "--version") == f"encapkeras {__version__}\n"


def test_the_help_of_the_script_speaks_of_the_script(capsys):
    assert main(["train", "--help"], script="train.py") == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py ")
    assert "\n  python train.py quickstart\n" in text
    assert "encapkeras train" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--debug trian", "'trian' is not a command. Did you mean 'train'?"),
        ("bench sleep", "'sleep' is not a command. Did you mean 'step'?"),
        ("mine.yaml", "'mine.yaml' is a spec, not a command. To train it: encapkeras train mine.yaml"),
        ("quickstart train", "'quickstart' is a spec, not a command. To train it: encapkeras train quickstart"),
        ("evaluate run --sed", "encapkeras evaluate has no option --sed. Did you mean --set?"),
        ("export --fromat onnx", "encapkeras export has no option --fromat. Did you mean --format?"),
        ("bench step --roundss 3", "encapkeras bench step has no option --roundss. Did you mean --rounds?"),
        ("export run -output x.onnx", "encapkeras export has no option -output. Did you mean --output?"),
        ("new x.yaml --image_size 3", "encapkeras new has no option --image_size. Did you mean --image-size?"),
        ("evaluate run --epochs 3", "encapkeras evaluate has no option --epochs. encapkeras evaluate --help explains"),
        ("train --epoch 3", "has no option --epoch. Settings of the spec are changed with --set: --set train.epochs=3"),
        ("train q --batch-size=8", "with --set: --set data.batch_size=8"),
        ("train q --lr 0.1", "with --set: --set train.optimizer.learning_rate=0.1"),
        ("train q --colour red", "with --set, for example --set train.epochs=3"),
        ("train quickstart train.epochs=3", "is one argument too many. Did you mean --set train.epochs=3?"),
        ("schema quickstart", "'quickstart' is one argument too many\nFor example: encapkeras schema\n"),
        ("evaluate", "required: RUN\nFor example: encapkeras evaluate latest\nencapkeras evaluate --help explains"),
    ],
)
def test_wrong_words(words, message, capsys):
    assert message in refused(capsys, *words.split())


def test_values_that_begin_with_a_dash_are_no_options(capsys):
    assert "--images must be at least 1; received -3" in refused(capsys, "analyse", "run", "--images", "-3")
    assert "there is no such file" in refused(capsys, "show", "--", "--epochs.yaml")


def answered(line, folder, *python):
    """What a shell is told that may follow, and what Python said of its imports."""
    answer = folder / "answer"
    asks = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    environment = {**os.environ, **asks, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    command = [sys.executable, *python, "-m", "encapkeras"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [word.strip() for word in answer.read_text().split("\n")], done.stderr


def test_a_shell_is_told_commands_options_specs_and_files(tmp_path):
    (tmp_path / "quick.yaml").touch()
    (tmp_path / "quick.png").touch()
    assert answered("encapkeras ", tmp_path)[0] == [*COMMANDS, "help"]
    assert answered("encapkeras train --r", tmp_path)[0] == ["--run-dir", "--resume"]
    found, imports = answered("encapkeras train qui", tmp_path, "-X", "importtime")
    assert found == ["quickstart", "quick.yaml"]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports.splitlines()}
    assert "argcomplete" in loaded
    assert not loaded & {"keras", "torch", "numpy", "pydantic", "yaml", "rich"}
