"""JSON specs work wherever YAML ones do."""

import json

import pytest
from support.commands import refused
from support.tiny_spec import tiny_spec

from encapkeras import SpecError, build_model, check_spec, load_spec
from encapkeras.cli.main import main


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_spec(), indent="\t"))
    return tmp_path


def write(name, data, **options):
    text = data if isinstance(data, str) else json.dumps(data, **options)
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)


def problems(source, overrides=()):
    with pytest.raises(SpecError) as caught:
        check_spec(source, overrides)
    return caught.value.problems


def test_commands_take_json(capsys):
    assert main(["check", "tiny.json"]) == 0
    assert main(["show", "tiny.json", "--set", "model.nodes.hidden.units=8"]) == 0
    assert "tiny.json: ok" in capsys.readouterr().out
    assert load_spec("tiny.json") == load_spec(tiny_spec())
    assert build_model("tiny.json", ["model.nodes.hidden.units=8"]).port("hidden").shape == (None, 8)


def test_a_training_from_json_leaves_a_spec_that_trains_the_same():
    write("tiny.json", {**tiny_spec(epochs=1), "name": "1e-3", "x-note": {"no": "0o17", "yes": ["on", "12:30", 1e-5]}})
    assert main(["train", "tiny.json", "--run-dir", "run"]) == 0
    saved = load_spec("run/spec.yaml")
    assert saved == load_spec("tiny.json")
    assert saved.name == "1e-3"
    assert saved.resolved["x-note"] == {"no": "0o17", "yes": ["on", "12:30", 1e-5]}


@pytest.mark.slow
def test_comparisons_take_json_beside_yaml(in_a_folder):
    write("tiny.json", tiny_spec(epochs=1))
    (in_a_folder / "other.yaml").write_text("name: other\nextends: tiny.json\nmodel: {nodes: {hidden: {units: 16}}}\n")
    assert main(["compare", "tiny.json", "other.yaml", "--seeds", "1", "--run-dir", "runs"]) == 0
    assert load_spec("runs/seed_0/other/spec.yaml").name == "other"


def test_yaml_extends_json_and_json_extends_yaml(in_a_folder):
    (in_a_folder / "middle.yaml").write_text("extends: tiny.json\nmodel:\n  nodes:\n    hidden: {units: 16}\n")
    write("top.json", {"extends": ["middle.yaml"], "train": {"epochs": 7}})
    spec = check_spec("top.json")
    assert (spec.name, spec.train.epochs) == ("tiny", 7)
    assert next(node for node in spec.nodes if node.name == "hidden").arguments["units"] == 16
    write("quick.json", {"extends": "quickstart.yaml", "vars": {"types": 4}})
    assert check_spec("quick.json").nodes[1].arguments["types"] == 4


def test_a_missing_base_of_any_ending_is_answered_with_a_near_one(in_a_folder):
    write("top.json", {"extends": "tinny.json"})
    assert "Did you mean 'tiny.json'?" in problems("top.json")[0].message
    (in_a_folder / "base.yml").write_text("name: base\n")
    write("top.json", {"extends": "bass.yml"})
    assert "Did you mean 'base.yml'?" in problems("top.json")[0].message


def test_names_without_an_ending_lead_to_the_file(in_a_folder, capsys):
    assert "Did you mean 'tiny.json'?" in refused(capsys, "check", "tiny")
    assert "'tiny.json'" in refused(capsys, "check", "tinny.json")
    assert "'quickstart', without '.json'" in refused(capsys, "check", "quickstart.json")


def test_the_schema_key_of_editors_is_no_mistake(in_a_folder):
    for schema in ("spec.schema.json", "./spec.schema.json", "https://example.org/a.json", "file:///a.json"):
        write("with.json", {"$schema": schema, **tiny_spec()})
        assert load_spec("with.json") == load_spec("tiny.json")
    write("with.json", {"$schema": 3, **tiny_spec()})
    assert problems("with.json")[0].path == "$schema"
    (in_a_folder / "with.yaml").write_text("$schema: spec.schema.json\nextends: tiny.json\n")
    assert load_spec("with.yaml") == load_spec("tiny.json")


LAYOUTS = {
    "one line": {},
    "minified": {"separators": (",", ":")},
    "spaces": {"indent": 2},
    "tabs": {"indent": "\t"},
    "escapes": {"indent": 1, "ensure_ascii": True},
    "characters": {"indent": 1, "ensure_ascii": False},
    "spaced colons": {"indent": "\t", "separators": (",", " \t:\t")},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_mistakes_have_their_places_in_every_layout(layout):
    wrong = tiny_spec()
    wrong["model"]["nodes"]["hidden"] |= {"doc": 'é \u2028 🙂 \\ " \t', "untis": 3}
    wrong["train"]["epohcs"] = 2
    text = json.dumps(wrong, **layout)
    write("wrong.json", text)
    lines = text.split("\n")
    for key, problem in zip(('"untis"', '"epohcs"'), problems("wrong.json"), strict=True):
        assert key.strip('"') in problem.message
        assert lines[problem.line - 1].startswith(key, problem.column - 1)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{"name": "a",\n "name": "b"}', (2, 2), "occurs twice; first on line 1, column 2"),
        ('{"name": "a"\n "source": "b"}', (2, 2), "unexpected '\"' in the map that starts on line 1"),
        ('{"name": "a', (1, 12), "the quoted text that starts on line 1, column 10 is not closed"),
        ('{"name": "\\ud83d"}', (1, 13), "invalid JSON: unexpected"),
        ("[1]", (1, 1), "holds a list"),
        ("", (1, 1), "is empty"),
        ('{"": 1}', (1, 2), "a key must be text"),
        ('{"train": {"epochs": NaN}}', (1, 12), "must be an integer"),
    ],
)
def test_what_is_no_spec_in_json_is_said_with_its_place(text, place, words):
    write("wrong.json", text)
    assert any(words in found.message and (found.line, found.column) == place for found in problems("wrong.json"))
