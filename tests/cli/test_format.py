"""`encapkeras format`: from YAML to JSON and back, with the same meaning."""

import json
from pathlib import Path

import pytest
from support.commands import refused

from encapkeras import load_spec
from encapkeras.cli.main import main
from encapkeras.spec.bundled import bundled_names
from encapkeras.spec.spec_files import installed_schema

MINE = """\
# yaml-language-server: $schema=./spec.schema.json
# My network.
spec: encapkeras/1
name: "1e-3"   # a name, no number
extends: quickstart.yaml
x-note: {yes: no, when: 2020-01-01, size: 0o17, rate: 1e-3, "quoted # no remark": '12'}
"""
AS_JSON = {
    "$schema": "./spec.schema.json",
    "spec": "encapkeras/1",
    "name": "1e-3",
    "extends": "quickstart.yaml",
    "x-note": {"yes": "no", "when": "2020-01-01", "size": 15, "rate": 0.001, "quoted # no remark": "12"},
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path / "mine.yaml"


def formatted(capsys, *words):
    assert main(["format", *map(str, words)]) == 0
    return capsys.readouterr()


def test_yaml_is_printed_as_json_and_json_as_yaml(mine, tmp_path, capsys):
    printed = formatted(capsys, "mine.yaml")
    assert json.loads(printed.out) == AS_JSON
    assert list(json.loads(printed.out)) == list(AS_JSON)
    assert printed.err == "mine.yaml: 2 comments dropped: JSON has no comments\n"
    (tmp_path / "mine.json").write_text(printed.out)
    back = formatted(capsys, "mine.json")
    assert back.out == (
        "# yaml-language-server: $schema=./spec.schema.json\n"
        'spec: encapkeras/1\nname: "1e-3"\nextends: quickstart.yaml\n'
        'x-note: {"yes": "no", when: "2020-01-01", size: 15, rate: 0.001, "quoted # no remark": "12"}\n'
    )
    assert back.err == ""
    assert load_spec("mine.json") == load_spec("mine.yaml")


def test_the_ending_says_which_language_is_written(mine, tmp_path, capsys):
    for name in ("a.json", "b.yml", "c.yaml"):
        assert formatted(capsys, "mine.yaml", "-o", name).out == ""
        assert load_spec(tmp_path / name) == load_spec(mine)
    assert (tmp_path / "a.json").read_text().startswith("{")
    assert (tmp_path / "b.yml").read_text() == (tmp_path / "c.yaml").read_text()
    assert formatted(capsys, "b.yml", "--to", "yaml").out == (tmp_path / "b.yml").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.yml", "c.yaml", "mine.yaml"]


def check_means_the_same(spec, folder, capsys):
    as_json, back = folder / f"{spec.stem}.json", folder / f"{spec.stem}.yaml"
    formatted(capsys, spec, "-o", as_json)
    formatted(capsys, as_json, "-o", back)
    assert load_spec(as_json) == load_spec(spec) == load_spec(back)


@pytest.mark.parametrize("name", ["resnet14", "encapnet_ot_all", "capsnet_em_digits"])
def test_specs_mean_the_same_as_json_and_back(name, tmp_path, capsys):
    check_means_the_same(bundled_names()[name], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("spec", bundled_names().values(), ids=lambda spec: spec.stem)
def test_every_spec_means_the_same_as_json_and_back(spec, tmp_path, capsys):
    check_means_the_same(spec, tmp_path, capsys)


def test_bundled_specs_are_named_as_for_other_commands(mine, capsys):
    printed = json.loads(formatted(capsys, "quickstart").out)
    assert (printed["name"], printed["$schema"]) == ("quickstart", installed_schema())
    formatted(capsys, "quickstart", "-o", "quick.json")
    assert json.loads(Path("quick.json").read_text()) == printed
    assert "Did you mean 'mine.yaml'?" in refused(capsys, "format", "mine")
    assert "'quickstart', without '.yaml'" in refused(capsys, "format", "quickstart.yaml")
    assert "Did you mean 'mine.yaml'?" in refused(capsys, "format", "mien.yaml")


def test_paths_follow_the_text_to_another_folder(mine, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    mine.write_text(
        "# yaml-language-server: $schema=schemas/a.json\nextends: quickstart.yaml\n"
        "data: {dataset: npz, path: a.npz, root: /data}\n"
    )
    formatted(capsys, "mine.yaml", "-o", "below/moved.json")
    moved = json.loads((tmp_path / "below" / "moved.json").read_text())
    assert moved["data"] == {"dataset": "npz", "path": "../a.npz", "root": "/data"}
    assert moved["$schema"] == "../schemas/a.json"
    formatted(capsys, "below/moved.json", "-o", "back.yaml")
    assert (tmp_path / "back.yaml").read_text() == mine.read_text()
    for kept in ("~/a.npz", "/a.npz"):
        mine.write_text(f"data: {{dataset: npz, path: {kept}}}\n")
        formatted(capsys, "mine.yaml", "-o", "below/moved.json", "--overwrite")
        assert json.loads((tmp_path / "below" / "moved.json").read_text())["data"]["path"] == kept


@pytest.mark.parametrize("schema", ["https://example.org/spec.schema.json", "file:///spec.schema.json"])
def test_the_schema_of_any_place_stays(schema, mine, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    mine.write_text(f"# yaml-language-server: $schema={schema}\nname: mine\n")
    formatted(capsys, "mine.yaml", "-o", "below/mine.json")
    assert json.loads((tmp_path / "below" / "mine.json").read_text()) == {"$schema": schema, "name": "mine"}


@pytest.mark.parametrize("schema", [3, "", "a b", None])
def test_a_schema_that_is_no_place_stays_the_value_that_it_is(schema, mine, capsys):
    mine.write_text(f"name: mine\n$schema: {json.dumps(schema)}\n")
    assert formatted(capsys, "mine.yaml").out == f'{{\n  "name": "mine",\n  "$schema": {json.dumps(schema)}\n}}\n'


def test_a_base_that_would_be_lost_is_named(mine, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    (tmp_path / "own.yaml").write_text("vars: {types: 4}\n")
    mine.write_text("extends: [quickstart.yaml, own.yaml]\n")
    message = refused(capsys, "format", "mine.yaml", "-o", "below/mine.json")
    assert "'extends' names 'own.yaml', a file next to the spec" in message
    assert not (tmp_path / "below" / "mine.json").exists()
    formatted(capsys, "mine.yaml", "-o", "mine.json")
    (tmp_path / "own.yaml").unlink()
    mine.write_text("extends: quickstart.yaml\n")
    (tmp_path / "below" / "quickstart.yaml").write_text("name: another\n")
    assert "another file would" in refused(capsys, "format", "mine.yaml", "-o", "below/mine.json")


def test_a_path_of_variables_is_not_guessed(mine, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    mine.write_text("vars: {where: a}\ndata: {dataset: npz, path: $where/b.npz}\n")
    assert "'data.path' is '$where/b.npz'" in refused(capsys, "format", "mine.yaml", "-o", "below/mine.json")
    formatted(capsys, "mine.yaml", "-o", "mine.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "mine.yaml"], "'mine.yaml' is the file to read. Name another file with -o."),
        (["-o", "mine.yaml", "--overwrite"], "'mine.yaml' is the file to read. Name another file with -o."),
        (["-o", "there.json"], "'there.json' already exists. Name another file with -o, or replace it"),
        (["-o", "mine.toml"], "-o must name a .yaml or .yml or .json file; received 'mine.toml'"),
        (["-o", "none/mine.json"], "'none/mine.json' cannot be written: 'none' is not a folder. Create it first."),
        (["-o", "folder.json"], "'folder.json' is a folder."),
        (["-o", "a.json", "--to", "json"], "not allowed with"),
    ],
)
def test_nothing_is_written_where_it_should_not_be(words, message, mine, tmp_path, capsys):
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "folder.json").mkdir()
    assert message in refused(capsys, "format", "mine.yaml", *words)
    assert (mine.read_text(), (tmp_path / "there.json").read_text()) == (MINE, "{}")


def test_a_file_that_is_there_is_replaced_if_it_may_be(mine, tmp_path, capsys):
    (tmp_path / "there.json").write_text("{}")
    formatted(capsys, "mine.yaml", "-o", "there.json", "--overwrite")
    assert json.loads((tmp_path / "there.json").read_text()) == AS_JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "mine.yaml:2:1"),
        ("a: &x 1\n", "anchors"),
        ("a: [\n", "invalid YAML"),
        ("- a\n", "holds a list"),
        ("a: .nan\n", "JSON cannot express NaN"),
    ],
)
def test_what_cannot_be_formatted_is_said(text, message, mine, capsys):
    mine.write_text(text)
    assert message in refused(capsys, "format", "mine.yaml")


def test_what_is_no_spec_yet_is_formatted_too(mine, capsys):
    """A spec with mistakes of other kinds, or a base, is well-formed."""
    mine.write_text("train: {epohcs: 3}\n")
    assert formatted(capsys, "mine.yaml").out == '{\n  "train": {"epohcs": 3}\n}\n'


@pytest.mark.parametrize(
    "text", ["a: 1   # one\n# two\nb: '#'\n", "# one\na: |\n  # text\nb: 1  # two\n", "#\n#\na: 1\n"]
)
def test_lost_comments_are_counted(text, mine, capsys):
    mine.write_text(text)
    assert (
        formatted(capsys, "mine.yaml", "--to", "yaml").err
        == "mine.yaml: 2 comments dropped: only the values are converted\n"
    )
