"""`encapkeras specs`: the specs that come along."""

import json
import subprocess
import sys

import pytest
from support.commands import refused

from encapkeras import check_spec
from encapkeras.cli.main import main
from encapkeras.spec.bundled import bundled_names, bundled_specs
from encapkeras.spec.spec_files import installed_schema


def test_the_table_has_every_spec_with_its_data_and_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["specs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.strip() for line in lines if line.strip()}
    assert set(bundled_names()) <= set(rows)
    assert rows["encapnet_svhn"].split(maxsplit=2)[1:] == [
        "svhn",
        "The four-stage EncapNet of master convolutions, with optimal transport, on SVHN (house numbers)",
    ]


def test_a_narrow_terminal_breaks_descriptions_between_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["specs"]) == 0
    *table, hint = capsys.readouterr().out.splitlines()
    assert max(map(len, table)) <= 70
    start = table[0].index("network")
    first = next(number for number, line in enumerate(table) if line.startswith("encapnet_svhn "))
    assert table[first + 1][:start].strip() == ""
    assert table[first + 1][start:].strip()
    assert hint.startswith("encapkeras specs NAME")


def test_the_list_is_json_for_tools(capsys):
    assert main(["specs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(bundled_names())
    assert all(row["dataset"] and row["summary"] and row["summary"][0] != "#" for row in rows)
    assert not any("yaml-language-server" in row["summary"] for row in rows)


def test_a_printed_spec_is_one_to_begin_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["specs", "encapnet_digits"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text)
    assert check_spec("mine.yaml") == check_spec("encapnet_digits")
    original = bundled_names()["encapnet_digits"].read_text()
    assert text.splitlines()[1:] == original.splitlines()[1:]
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={installed_schema()}"


@pytest.mark.parametrize("name", ["base/encapnet", "base/encapnet.yaml"])
def test_bases_are_printed_too(name, capsys):
    assert main(["specs", name]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1:] == (bundled_specs() / "base" / "encapnet.yaml").read_text().splitlines()[1:]


@pytest.mark.parametrize("name", ["quikstart", "../README", "/etc/passwd", ""])
def test_an_unknown_name_is_answered_with_a_near_one(name, capsys):
    message = refused(capsys, "specs", name)
    assert message.startswith(f"no bundled spec is called '{name}'.")
    assert ("Did you mean 'quickstart'?" in message) == (name == "quikstart")


def test_neither_keras_nor_torch_is_needed():
    code = (
        "import sys; from encapkeras.cli.main import main; main(['specs']); main(['format', 'quickstart'])\n"
        "assert not {'keras', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_installed_schema_is_there():
    assert installed_schema() == (bundled_specs() / "spec.schema.json").resolve().as_uri()
    assert (bundled_specs() / "spec.schema.json").is_file()
