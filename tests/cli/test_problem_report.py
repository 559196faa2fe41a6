"""How errors and warnings are shown: the place, the source line with a caret, the message; colours on terminals."""

import contextlib
import io
import os
import re

import pytest

from encapkeras.cli.main import main
from encapkeras.cli.terminal.source_excerpt import SourceFiles
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.errors import Problem

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a spec file, by its text."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return "a.yaml"

    return write


def excerpt(file, line, column, width=60, encoding="utf-8"):
    """The two lines of an excerpt; None if there is none."""
    found = SourceFiles(encoding).excerpt(file, line, column, width)
    return found and (found.text, " " * found.start + "^" * found.length)


@pytest.mark.parametrize(
    ("line", "column", "marked"),
    [
        ("dim: 4", 1, "dim"),
        ("  stage$i: {dim: 4, types: 8}", 21, "types"),
        ("  - $(2 * (types + 1))", 5, "$(2 * (types + 1))"),
        ("name: 'it''s mine', x", 7, "'it''s mine'"),
        ('name: "a \\" b", x', 7, '"a \\" b"'),
        ("name: 'never closed", 7, "'never"),
        ("inputs: [a/main, b]", 10, "a/main"),
        ("inputs: [a, b]", 9, "["),
        ("inputs: [a, b", 14, ""),  # behind the end, where something is missing
    ],
)
def test_the_caret_underlines_what_stands_there(line, column, marked, file):
    text, carets = excerpt(file(line), 1, column)
    assert text == line
    assert carets == " " * (column - 1) + "^" * max(len(marked), 1)


@pytest.mark.parametrize(
    ("line", "column", "text", "before", "under"),
    [
        ("{日本: 1, k: 2}", 8, "{日本: 1, k: 2}", 9, 1),  # 日 and 本 take two cells each
        ("{日本: 1, k: 2}", 2, "{日本: 1, k: 2}", 1, 4),
        ("{😀: 1, k: 2}", 8, "{😀: 1, k: 2}", 8, 1),
        ("{e\u0301: 1, k: 2}", 9, "{e\u0301: 1, k: 2}", 7, 1),  # the accent takes no cell
        ("\tk: 2", 2, "    k: 2", 4, 1),
        ("a:\u00a0b", 1, "a:\\xa0b", 0, 1),
        ("\u202ea: 1", 2, "\\u202ea: 1", 6, 1),
    ],
)
def test_the_caret_stands_under_the_right_cell(line, column, text, before, under, file):
    shown, carets = excerpt(file(line), 1, column)
    assert shown == text
    assert carets == " " * before + "^" * under


def test_a_terminal_that_lacks_a_character_shows_its_code(file):
    assert excerpt(file("{é: 1, k: 2}"), 1, 8, encoding="ascii") == ("{\\xe9: 1, k: 2}", " " * 10 + "^")


@pytest.mark.parametrize("column", [1, 2, 20, 40, 70, 2_500_000, 4_999_990, 5_000_000])
@pytest.mark.parametrize("letter", ["x", "日"])
def test_long_lines_are_cut_around_the_column(column, letter, file):
    line = letter * (column - 1) + "K: " + letter * (5_000_000 - column)
    text, carets = excerpt(file(line), 1, column)
    cells = text.replace("日", "日日")
    assert 50 <= len(cells) <= 60
    assert cells[carets.index("^") :].startswith("K: ")
    assert carets.count("^") == 1
    assert text.endswith("...") == (column < 4_999_990)
    assert column < 40 or text.startswith("...")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: 1\n", 3, 1),  # no such line
        ("a: 1\n", 1, 9),
        ("a: 1\n\nb: 2\n", 2, 1),  # nothing to see
        ("a: 1\n", 0, 0),
        (b"a: \xff\n", 1, 1),  # no text
    ],
)
def test_what_is_not_there_is_not_shown(text, line, column, file):
    assert excerpt(file(text), line, column) is None


def test_neither_files_that_are_gone_nor_pipes_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")  # reading it would wait for ever
    assert excerpt(str(tmp_path / "pipe.yaml"), 1, 1) is None
    assert excerpt(str(tmp_path / "gone.yaml"), 1, 1) is None
    assert excerpt(str(tmp_path), 1, 1) is None
    assert excerpt("no\0name", 1, 1) is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_lines_end_as_yaml_says(end, file):
    assert excerpt(file(f"\ufeffa: 1{end}b: 2{end}"), 2, 1) == ("b: 2", "^")


PROBLEMS = [
    Problem("a.yaml", 1, 1, "[bold]a[/bold]", "no [red]markup[/red] :smile: " * 8, note="(row 1, 'x')"),
    Problem("--set", 0, 0, "train.epohcs", "unknown"),
    Problem("a.yaml", 2, 4, "b", "does not fit", trace="image (4, 4, 1) -> b (1, 2)"),
]
PLAIN = f"""\
a.yaml:1:1  [bold]a[/bold]   (row 1, 'x')
    1 | [bold]a[/bold]: 1
      | ^
    {"no [red]markup[/red] :smile: " * 8}
--set  train.epohcs
    unknown
a.yaml:2:4  b
    2 | b: {{c: 1}}
      |    ^
    does not fit
    image (4, 4, 1) -> b (1, 2)
3 errors found
""".replace(": \n", ":\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def printed(file, monkeypatch):
    """What is printed on a stream, in an environment."""

    def run(stream, width=60, **environment):
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), **environment}.items():
            monkeypatch.setenv(name, value)
        file("[bold]a[/bold]: 1\nb: {c: 1}\n")
        with contextlib.redirect_stderr(stream):
            print_problems(PROBLEMS, "3 errors found")
        return stream.getvalue()

    return run


def test_no_colours_and_no_broken_lines_but_on_terminals(printed):
    assert printed(io.StringIO()) == PLAIN


def test_a_terminal_shows_colours_and_breaks_lines_between_words(printed):
    text = printed(Terminal())
    assert {"\x1b[1;31m", "\x1b[36m", "\x1b[0m"} <= set(ESCAPE.findall(text))
    shown = ESCAPE.sub("", text)
    assert max(map(len, shown.splitlines())) <= 60
    assert shown.split() == PLAIN.split()  # the same words
    message = shown[shown.index("    no [red]") : shown.index("--set")].splitlines()
    assert len(message) > 4
    assert {re.match(" *", line)[0] for line in message} == {"    "}


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_no_escape_codes(environment, printed):
    text = printed(Terminal(), **environment)
    assert "\x1b" not in text
    assert text.split() == PLAIN.split()


def test_warnings_say_that_they_are_some(file, capsys):
    print_problems([])
    assert capsys.readouterr().err == ""
    print_problems([Problem(file("a: 1\n"), 1, 1, "a", "hardly meant", severity="warning")])
    assert capsys.readouterr().err == "a.yaml:1:1  a\n    1 | a: 1\n      | ^\n    warning: hardly meant\n"


def test_every_command_reports_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("extends: quickstart.yaml\ntrain: {epohcs: 3}\n")
    assert main(["train", "wrong.yaml"]) == 2
    assert capsys.readouterr().err == (
        "wrong.yaml:2:9  train.epohcs\n    2 | train: {epohcs: 3}\n      |         ^^^^^^\n"
        "    'epohcs' is not allowed here. Did you mean 'epochs'?\n1 error found\n"
    )


@pytest.mark.parametrize("command", ["train", "compare"])
def test_trainings_begin_with_the_warnings(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("extends: quickstart.yaml\nvars: {typs: 4}\n")
    (tmp_path / "runs").write_text("in the way of the run folder")
    assert main([command, "a.yaml", "--run-dir", "runs"]) == 2
    first, _, _, message, *_ = capsys.readouterr().err.splitlines()
    assert first == "a.yaml:2:8  vars.typs"
    assert message == "    warning: nothing reads the variable 'typs'. Did you mean 'types'?"
