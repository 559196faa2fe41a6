"""Spec files: YAML 1.2 scalars, JSON, places, and files that are no specs."""

import json
import math

import pytest
import yaml

from encapkeras import SpecError, check_spec, load_spec
from encapkeras.spec import parse as load
from encapkeras.spec.report import Report

TINY = {
    "name": "tiny",
    "model": {
        "inputs": {"image": [4, 4, 6]},
        "nodes": {
            "capsules": {"layer": "image_to_capsules", "inputs": "image", "types": 3, "expect": [4, 4, 3, 2]},
            "lengths": {"layer": "capsule_length", "inputs": "capsules", "doc": "a “remark” 🙂"},
        },
        "outputs": {"lengths": "lengths"},
    },
}


def read(tmp_path, text, name="spec.yaml"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    report = Report()
    return load.load_file(file, name, report), report


def values(tmp_path, text):
    return read(tmp_path, text)[0].plain()


def problems(source, overrides=()):
    with pytest.raises(SpecError) as caught:
        check_spec(source, overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.0e-4", 0.0001),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("1e", "1e"),
        ("$types", "$types"),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path, text, value):
    read_value = values(tmp_path, f"a: {text}\n")["a"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_places_are_those_of_keys_and_of_list_elements(tmp_path):
    tree, _ = read(tmp_path, "é: [ü, {b: 1}]\nc:\n  - d\n  -   e: 2\n")
    places = {"": (1, 1), "é": (1, 1), "é.0": (1, 5), "é.1": (1, 8), "é.1.b": (1, 9), "c.1": (4, 7), "c.1.e": (4, 7)}
    found = {}

    def walk(node):
        found[node.path] = (node.line, node.column)
        children = node.value.values() if isinstance(node.value, dict) else node.value
        for child in children if isinstance(node.value, dict | list) else []:
            walk(child)

    walk(tree)
    assert {path: found[path] for path in places} == places


def test_without_libyaml_the_same_is_read(tmp_path, monkeypatch):
    text = yaml.safe_dump(TINY, sort_keys=False)
    fast, _ = read(tmp_path, text)
    monkeypatch.setattr(load, "_LOADER", yaml.SafeLoader)
    slow, _ = read(tmp_path, text)
    assert slow == fast


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    assert values(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_means_the_same_as_yaml(tmp_path, indent):
    files = {".yaml": yaml.safe_dump(TINY, allow_unicode=True), ".json": json.dumps(TINY, indent=indent)}
    specs = []
    for suffix, text in files.items():
        file = tmp_path / f"spec{suffix}"
        file.write_text(text)
        specs.append(load_spec(file))
    assert specs[0] == specs[1] == load_spec(TINY)


def test_json_keeps_its_places(tmp_path):
    file = tmp_path / "spec.json"
    wrong = json.loads(json.dumps(TINY))
    wrong["model"]["nodes"]["capsules"]["types"] = 5
    text = json.dumps(wrong, indent="\t")
    file.write_text(text)
    (problem,) = problems(file)
    before = text[: text.index('"capsules"')]
    assert (problem.line, problem.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: \x00", "U+0000"),
        (b"a: \xff", "not UTF-8"),
        (b"", "is empty"),
        (b"# only a remark\n", "is empty"),
        (b"- a\n", "a list"),
        (b"text\n", "only 'text'"),
        (b"a: [" + b"[" * 100_000, "deeper than 64"),
        (b"{a: " * 100_000, "deeper than 64"),
        (b"a: [1\n", "invalid YAML"),
        (b"a: 'b\n", "starts on line 1, column 4 is not closed"),
        (b"a:\n\tb: 1\n", "spaces"),
        (b"%YAML 3.0\n---\na: 1\n", "invalid YAML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, words):
    file = tmp_path / "spec.yaml"
    file.write_bytes(text)
    assert any(words in problem.message and problem.line for problem in problems(file))


@pytest.mark.parametrize("without_libyaml", [False, True])
@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("inner", ["[", "{", "[\n", '{"a":', "&a [", "!t [", "- ", "? "])
def test_our_own_bound_on_nesting_goes_before_that_of_a_library(inner, is_json, without_libyaml, monkeypatch):
    if without_libyaml:
        monkeypatch.setattr(load, "_LOADER", yaml.SafeLoader)
    text = inner * 1500
    with pytest.raises(SpecError) as caught:
        load.load_text(text, "spec", Report(), is_json=is_json)
    (problem,) = caught.value.problems
    begin = 65 * len(inner)
    line, column = text.count("\n", 0, begin) + 1, begin - text.rfind("\n", 0, begin)
    assert (problem.message, problem.line, problem.column) == ("nested deeper than 64 levels", line, column)


def test_64_levels_are_read(tmp_path):
    assert values(tmp_path, "a: " + "[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "unexpected end of the file in the list that starts on line 1"),
        ("a: {b: 1]", "unexpected ']' in the map that starts on line 1"),
        ("b: 1\na: [1,\n2, }", "unexpected '}' in the list that starts on line 2"),
        ("a: b: c\n", "unexpected ':'"),
        ("a:\n  b: 1\n c: 2\n", "unexpected 'c'"),
        ("a: @x", "unexpected '@'"),
        ("a: \"b' \\\" '", "the quoted text that starts on line 1, column 4 is not closed"),
        ("'a': 1\n'b' 2\n", "unexpected end of the file"),
    ],
)
def test_invalid_yaml_is_said_in_our_words_and_in_those_of_the_library_behind_them(text, message):
    with pytest.raises(SpecError) as caught:
        load.load_text(text, "spec", Report(), is_json=False)
    ours, _, theirs = caught.value.problems[0].message.partition(" (")
    assert ours == f"invalid YAML: {message}"
    assert theirs.endswith(")")


def test_invalid_json_is_called_so():
    with pytest.raises(SpecError, match="invalid JSON: unexpected '}' in the list that starts on line 1"):
        load.load_text('{"a": [1}', "spec", Report(), is_json=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "occurs twice"),
        ("a: &x 1\n", "anchors"),
        ("a: *x\n", "aliases"),
        ("a: &x [*x]\n", "aliases"),
        ("a: !!python/object:os.system {}\n", "tag"),
        ("a: !!str 3\n", "tag"),
        ("<<: {b: 1}\n", "extends"),
        ("? [a]\n: 1\n", "must be text"),
        ('"": 1\n', "must be text"),
        ("a: 1\n---\nb: 1\n", "second document"),
        (f"a: {'9' * 5000}\n", "5000 characters"),
    ],
)
def test_what_is_no_part_of_the_language(tmp_path, text, words):
    _, report = read(tmp_path, text)
    assert any(words in problem.message for problem in report.problems())


def test_an_alias_bomb_is_harmless(tmp_path):
    lines = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30))]
    _, report = read(tmp_path, "\n".join(lines))
    assert len(report.problems()) == 30 + 2 * 29


def test_missing_files_are_named_with_a_near_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1")
    (problem,) = problems(tmp_path / "mein.yaml")
    assert "mine.yaml" in problem.message
    (problem,) = problems(tmp_path / "nowhere" / "mine.yaml")
    assert "nowhere" in problem.message
    assert "'quickstart'" in problems("quikstart")[0].message


def test_folders_and_huge_files_are_refused(tmp_path):
    assert "a folder without specs" in problems(tmp_path)[0].message
    (tmp_path / "huge.yaml").write_bytes(b"#" * (load.LARGEST_FILE + 1))
    assert "larger than" in problems(tmp_path / "huge.yaml")[0].message
    assert "cannot be read" in problems("a\0b.yaml")[0].message


def test_a_file_in_the_way_goes_before_a_bundled_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text(yaml.safe_dump(TINY))
    assert load_spec("quickstart").name == "tiny"


class Strange:
    """No plain data."""


RECURSIVE = {"a": {}}
RECURSIVE["a"]["b"] = RECURSIVE


@pytest.mark.parametrize(
    "data", [{"model": Strange()}, {1: 2}, {"a": {"": 1}}, {"model": {"nodes": {1, 2}}}, RECURSIVE, {"a": b"bytes"}]
)
def test_data_that_is_not_plain_is_refused(data):
    with pytest.raises(SpecError):
        check_spec(data)


@pytest.mark.parametrize("text", ["model: {nodes: [}", "model: {nodes: [1, }", "model: [a: b: c]"])
def test_errors_are_worded_alike_without_libyaml(text, tmp_path, monkeypatch):
    def message():
        with pytest.raises(SpecError) as caught:
            read(tmp_path, text)
        (problem,) = caught.value.problems
        return problem.place, problem.message.partition(" (")[0]  # the library's own words follow

    with_libyaml = message()
    monkeypatch.setattr(load, "_LOADER", yaml.SafeLoader)
    assert message() == with_libyaml
