"""`encapkeras check` on several specs and folders, as text and as JSON."""

import json

import pytest
from support.commands import refused

from encapkeras.cli.main import main

SOUND = """\
spec: encapkeras/1
model:
  inputs: {image: [4, 4, 1]}
  nodes:
    flat: {layer: keras.Flatten, inputs: image}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
  outputs: {classes: scores}
"""
JSON = """\
{"spec": "encapkeras/1",
 "model": {"inputs": {"x": [2]}, "nodes": {"y": {"layer": "keras.ReLU", "inputs": "x"}}, "outputs": {"z": "y"}}}
"""
BASE = "model:\n  inputs: {image: [4, 4, 1]}\n  nodes: {flat: {layer: keras.Flaten, inputs: image}}\n"
ON_BASE = "spec: encapkeras/1\nextends: base/base.yaml\nmodel: {outputs: {classes: flat}}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two sound specs, two on a broken base, and what is no spec."""
    monkeypatch.chdir(tmp_path)
    files = {
        "specs/a.yaml": SOUND,
        "specs/b.yml": ON_BASE,
        "specs/deep/c.json": JSON,
        "specs/d.yaml": ON_BASE,
        "specs/base/base.yaml": BASE,
        "specs/cluster.yaml": "spec: {replicas: 3}\n",  # of another program
        "specs/spec.schema.json": "{}",
        "specs/.hidden/e.yaml": SOUND,
        "specs/notes.txt": SOUND,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return "specs"


def checked(capsys, *words):
    """The exit code and what a check prints, on stdout and on stderr."""
    code = main(["check", *map(str, words)])
    return (code, *capsys.readouterr())


def test_a_folder_is_every_spec_in_it(folder, capsys):
    code, out, err = checked(capsys, folder)
    assert code == 2
    assert out.splitlines() == [
        "specs/a.yaml: ok, 2 nodes, 51 parameters",
        "specs/b.yml: 1 error found",
        "specs/d.yaml: 1 error found",
        "specs/deep/c.json: ok, 1 node, 0 parameters",
        "4 specs: 2 ok, 2 with errors, 2 files without the key 'spec' skipped",
    ]
    # The mistake stands in their base: once in the report, with both specs.
    assert err.splitlines() == [
        "specs/base/base.yaml:3:18  model.nodes.flat.layer",
        "    3 |   nodes: {flat: {layer: keras.Flaten, inputs: image}}",
        "      |                  ^^^^^",
        "    Keras has no layer 'Flaten'. Did you mean 'keras.Flatten'?",
        "    breaks specs/b.yml, specs/d.yaml",
        "1 error found",
    ]


def test_json_is_the_same_for_tools(folder, capsys):
    code, out, err = checked(capsys, folder, "--format", "json")
    report = json.loads(out)
    assert (code, err) == (2, "")
    assert {key: report[key] for key in ("errors", "warnings")} == {"errors": 1, "warnings": 0}
    sound, broken = report["files"][:2]
    assert sound == {"file": "specs/a.yaml", "ok": True, "nodes": 2, "parameters": 51, "problems": []}
    (problem,) = broken.pop("problems")
    assert broken == {"file": "specs/b.yml", "ok": False, "nodes": None, "parameters": None}
    assert problem == {
        "severity": "error",
        "file": "specs/base/base.yaml",
        "line": 3,
        "column": 18,
        "path": "model.nodes.flat.layer",
        "message": "Keras has no layer 'Flaten'. Did you mean 'keras.Flatten'?",
        "note": "",
        "trace": "",
    }


def test_json_of_sound_specs_ends_well(folder, capsys):
    code, out, _ = checked(capsys, "specs/a.yaml", "--format", "json")
    report = json.loads(out)
    assert (code, report["errors"], len(report["files"])) == (0, 0, 1)


def test_a_spec_that_is_named_twice_is_checked_once(folder, capsys):
    code, out, _ = checked(capsys, "specs/deep", "specs/deep/c.json", "specs/a.yaml")
    assert code == 0
    assert out.splitlines()[-1] == "2 specs: 2 ok"


@pytest.mark.parametrize(
    "text",
    [
        "spec: encapkeras/1\nmodel: {\n",
        '{"spec": "encapkeras/1", "model": {',
        "{\n  'spec': encapkeras/1\n",
        "spec: encapkeras/1\nname: \xff\n",
    ],
)
def test_a_spec_too_broken_to_be_read_is_not_skipped(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_bytes(text.encode("latin1"))
    code, out, _ = checked(capsys, ".")
    assert code == 2
    assert out == "one.yaml: 1 error found\n1 spec: 0 ok, 1 with errors\n"


def test_a_folder_without_specs_is_an_error(folder, capsys):
    message = refused(capsys, "check", "specs/base")
    assert message.startswith("'specs/base' has no spec: no YAML or JSON file in it, or below, has the key 'spec'")


def test_a_folder_of_the_name_of_a_bundled_spec_needs_its_slash(folder, tmp_path, capsys):
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "mine.yaml").write_text(SOUND)
    assert checked(capsys, "quickstart")[1].startswith("quickstart: ok, 5 nodes")
    assert checked(capsys, "quickstart/")[1].startswith("quickstart/mine.yaml: ok, 2 nodes")


def test_overrides_hold_for_all_specs(folder, capsys):
    code, _, err = checked(capsys, "specs/a.yaml", "specs/deep", "--set", "train.epoch=3")
    assert code == 2
    assert err.splitlines() == [
        "--set  train.epoch",
        "    'epoch' is not allowed here. Did you mean 'epochs'?",
        "    breaks specs/a.yaml, specs/deep/c.json",
        "1 error found",
    ]


def test_warnings_follow_their_spec_and_fail_nothing(folder, tmp_path, capsys):
    unused = SOUND.replace("  outputs", "    idle: {layer: keras.ReLU, inputs: flat}\n  outputs")
    (tmp_path / "specs" / "a.yaml").write_text(unused)
    (tmp_path / "specs" / "f.yaml").write_text("spec: encapkeras/1\nextends: a.yaml\n")
    code, out, err = checked(capsys, "specs/a.yaml", "specs/f.yaml")
    assert code == 0
    assert out.splitlines() == [
        "specs/a.yaml: ok, 2 nodes, 51 parameters",
        "specs/f.yaml: ok, 2 nodes, 51 parameters",
        "2 specs: 2 ok, 1 warning",
    ]
    assert err.splitlines()[:3] == [
        "specs/a.yaml:7:5  model.nodes.idle",
        "    7 |     idle: {layer: keras.ReLU, inputs: flat}",
        "      |     ^^^^",
    ]
    assert err.splitlines()[3].startswith("    warning: reaches no output and no side loss")
    assert len(err.splitlines()) == 4  # once, although two specs have it
    report = json.loads(checked(capsys, "specs/f.yaml", "--format", "json")[1])
    assert (report["errors"], report["warnings"]) == (0, 1)
    assert report["files"][0]["problems"][0]["severity"] == "warning"


def test_the_networks_of_a_sweep_are_counted(folder, tmp_path, capsys):
    sweep = "sweep: {grid: {model.nodes.scores.units: [2, 3]}}\n"
    (tmp_path / "specs" / "a.yaml").write_text(SOUND + sweep)
    _, out, _ = checked(capsys, "specs/a.yaml")
    assert out == "specs/a.yaml: ok, 2 nodes, 51 parameters, and a sweep of 2 networks\n"


def test_names_of_files_are_never_echoed_raw(folder, tmp_path, capsys):
    (tmp_path / "specs" / "red\x1b[31m.yaml").write_text(SOUND)
    (tmp_path / "specs" / "worse\x1b[31m.yaml").write_text(ON_BASE)
    _, out, err = checked(capsys, folder)
    assert "specs/red\\x1b[31m.yaml: ok" in out
    assert "\x1b" not in out + err
