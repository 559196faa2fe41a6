"""What the documentation shows, works: its Python, its specs and its commands."""

import ast
import doctest
import functools
import itertools
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.pages import PAGES, PROJECT, blocks, commands, examples, files, name_of
from support.plugins import plugins_forgotten
from support.warm import warm_python

from encapkeras import SpecError, check_spec, load_spec, plugins
from encapkeras.cli.arguments import devices
from encapkeras.cli.main import COMMANDS, main
from encapkeras.data import Batches

RUN_FOLDER = "runs/first"
WRONG_ON_PURPOSE = re.compile(r"#.*\bwrong\b")
WARNINGS_ARE_ERRORS = [
    "-Werror",
    "-Wignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
]


def with_blocks(*languages):
    return [page for page in PAGES if blocks(page, *languages)]


def followed(pages):
    """Pages for tests that follow them to the end; slow are all but one of those that run Python in a process."""
    quick = [page for page in pages if page.name == "README.md" or not blocks(page, "python")]
    return [page if page in quick else pytest.param(page, marks=pytest.mark.slow) for page in pages]


def all_blocks(*languages):
    return [block for page in PAGES for block in blocks(page, *languages)]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "quickstart", "--set", "train.epochs=1", "--run-dir", str(folder)]) == 0
    return folder


class Reader(NamedTuple):
    """A reader's folder, a clone as far as the pages use it, after the page's Python."""

    folder: Path
    python: subprocess.CompletedProcess | None


@pytest.fixture(scope="module")
def reader_of(tmp_path_factory, trained_run):
    """Follows a page, once."""

    @functools.cache
    def follow(page):
        folder = tmp_path_factory.mktemp(page.stem)
        # Copies, no links: whatever a page writes stays in its folder.
        shutil.copytree(PROJECT / "specs", folder / "specs")
        shutil.copy(PROJECT / "train.py", folder)
        shutil.copytree(trained_run, folder / RUN_FOLDER)
        for name, text in files(page).items():
            (folder / name).write_text(text)
        return Reader(folder, run_python(page, folder) if blocks(page, "python") else None)

    return follow


@pytest.fixture
def reader(page, reader_of, monkeypatch):
    """The reader is in that folder, with no data and no network."""

    def no_network(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    followed = reader_of(page)
    monkeypatch.chdir(followed.folder)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(followed.folder / ".cache"))
    monkeypatch.delenv("ENCAPKERAS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return followed


def run_python(page, folder):
    """Runs the page's Python in one namespace; lines keep their numbers, so that a traceback points into the page."""
    lines = [""] * len(page.read_text().splitlines())
    for block in blocks(page, "python"):
        text = block.text.splitlines()
        lines[block.line - 1 : block.line - 1 + len(text)] = text
    script = folder / f"python_of_{page.stem}.py"
    script.write_text("\n".join(lines))
    command = [*warm_python(), *WARNINGS_ARE_ERRORS, str(script)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def promised_output(page):
    """The comments behind `print(...)` at the start of a line: what it prints."""
    pattern = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
    return [text for block in blocks(page, "python") for text in pattern.findall(block.text)]


@pytest.mark.parametrize("page", followed(with_blocks("python")), ids=name_of)
def test_python_runs_and_prints_what_the_page_says(page, reader):
    assert reader.python.returncode == 0, reader.python.stderr
    printed = iter(reader.python.stdout.splitlines())
    for text in promised_output(page):
        assert text in printed, f"'{text}' is not printed, or not in this order:\n{reader.python.stdout}"


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_is_complete(block):
    assert ast.parse(block.text).body


@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_keras_is_not_imported_before_the_backend_is_chosen(page):
    imports = re.compile(r"^ *(?:import|from) (keras|encapkeras)\b", re.MULTILINE)
    found = [name for block in blocks(page, "python") for name in imports.findall(block.text)]
    assert found[:1] != ["keras"]


@pytest.mark.parametrize("page", followed(with_blocks("yaml")), ids=name_of)
def test_specs_are_right_unless_the_page_says_wrong(page, reader):
    """A block is a whole spec if it begins with `spec:`; other blocks are sections, for any spec."""
    for block in blocks(page, "yaml"):
        whole = block.text.startswith("spec:")
        file = reader.folder / "from_the_page.yaml"
        file.write_text(block.text if whole else f"extends: quickstart.yaml\n{block.text}")
        read = check_spec if whole else load_spec
        if WRONG_ON_PURPOSE.search(block.text):
            with pytest.raises(SpecError):
                read(file)
        else:
            read(file)


def reports():
    """The wrong specs whose report the page shows: the `text` block that follows."""
    in_order = all_blocks("yaml", "text")
    pairs = [(a, b) for a, b in itertools.pairwise(in_order) if a.page == b.page]
    return [(a, b) for a, b in pairs if a.language == "yaml" and b.language == "text"]


@pytest.mark.parametrize(("spec", "report"), reports(), ids=str)
def test_reports_are_those_that_the_page_shows(spec, report, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = report.text.partition(":")[0]
    Path(file).write_text(spec.text)
    main(["check", file])
    assert capsys.readouterr().err == report.text


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_are_understood(page, monkeypatch):
    for module, _ in COMMANDS.values():
        monkeypatch.setattr(module, "run", lambda arguments: 0)
    monkeypatch.setattr(devices, "read_devices", lambda arguments: None)
    monkeypatch.setattr(plugins, "load_plugin", lambda file: None)
    for command in commands(page):
        words = shlex.split(command.replace("python train.py", "encapkeras train"), comments=True)[1:]
        assert main(words) == 0, command


def is_training(example):
    return bool(re.search(r"^epoch ", example.output, re.MULTILINE))


def shown(page):
    return [example for example in examples(page) if example.output]


def assert_matches(example, printed):
    """Equal but for `...`, white space, and what differs from run to run: measured numbers, times, the device."""

    def form(text):
        text = re.sub(r"\bon .+, \d+ threads?", "on DEVICE", text)
        text = re.sub(r"\d+:\d\d:\d\d|[\d,]+(?= images/s)", "N", text)
        return re.sub(r"\b\d+\.\d+(e[+-]\d+)?\b", "N", text)

    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(form(example.output), form(printed), options)
    assert same, f"{example.place}: $ {example.command}\n{printed}"


def printed_by(command, capsys):
    """What one of our commands prints, in this process."""
    capsys.readouterr()
    with plugins_forgotten():
        main(shlex.split(command.replace("python train.py", "encapkeras train"))[1:])
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("page", followed([page for page in PAGES if shown(page)]), ids=name_of)
def test_commands_print_what_the_page_shows(page, reader, capsys):
    for example in shown(page):
        if is_training(example):
            continue
        if example.command.startswith(("encapkeras ", "python train.py ")):
            printed = printed_by(example.command, capsys)
        else:
            printed = in_shell(example.command, reader.folder)
        assert_matches(example, printed.replace(str(reader.folder), "/home/you"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_training, shown(page)))], ids=name_of)
def test_trainings_print_what_the_page_shows(page, reader, capsys, monkeypatch):
    for example in filter(is_training, shown(page)):
        command = example.command.replace(RUN_FOLDER, "runs/again")
        with monkeypatch.context() as patch:
            if " compare " not in command:  # which of two is better, and whether they differ, takes whole epochs
                patch.setattr(Batches, "__len__", lambda self, whole=Batches.__len__: min(3, whole(self)))
            printed = printed_by(command, capsys)
        assert_matches(example, printed.replace("runs/again", RUN_FOLDER))


def in_shell(command, folder):
    """What a command prints; `python` is the one that runs the tests."""
    command = re.sub(r"(^|\s)python ", rf"\1{shlex.quote(sys.executable)} ", command)
    done = subprocess.run(command, shell=True, cwd=folder, text=True, stdout=-1, stderr=-2)  # noqa: S602
    return done.stdout
