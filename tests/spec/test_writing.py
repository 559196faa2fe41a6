"""What is written as YAML or JSON is read by our own reader as the same values, and by others too."""

import json
import math

import hypothesis
import pytest
import yaml
from hypothesis import strategies

from encapkeras import SpecError
from encapkeras.errors import ArgumentError
from encapkeras.spec.bundled import bundled_specs
from encapkeras.spec.odd_characters import first_odd
from encapkeras.spec.parse import load_text
from encapkeras.spec.report import Report
from encapkeras.spec.write import WIDTH, as_json, as_yaml

SPECS = sorted(bundled_specs().rglob("*.yaml"))

# Texts that some reader of YAML takes for something else.
NASTY = [
    *[
        "",
        " ",
        "~",
        "null",
        "Null",
        "true",
        "FALSE",
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "N",
        ".inf",
        "-.INF",
        ".nan",
        "NaN",
    ],
    *[
        "1",
        "-1",
        "+1",
        "010",
        "0o17",
        "0x1F",
        "0b11",
        "1_000",
        "1e-3",
        "1E5",
        ".5",
        "5.",
        "1.",
        "12:30",
        "1:2:3.4",
        ".",
    ],
    *["2020-01-01", "2001-12-14t21:59:43.10-05:00", "=", "<<", "-", "--- a", "...", "- a", "? a", ": a", "a: b", "a:b"],
    *[
        "a #b",
        "#a",
        "a#b",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'a'",
        '"a"',
        "a'b",
        'a"b',
        "{a}",
        "[a]",
        "a,b",
    ],
    *[
        "$name",
        "$(a + b)",
        "stage$i",
        "a\nb",
        "a\n",
        "\n",
        "a\tb",
        "\t",
        " a",
        "a ",
        "a  b",
        "\\",
        "\\n",
        "\x00",
        "\x1b[31m",
    ],
    *[
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\xa0",
        "é",
        "日本",
        "🙂",
        "\U000e0001",
        "\ud7ff",
        "\ufffd",
        "// a",
        "/a",
    ],
]


def is_key(text):
    """A key is text of characters that are what they look like."""
    return bool(text) and first_odd(text, key=True) is None


texts = strategies.sampled_from(NASTY) | strategies.text(max_size=20)
numbers = strategies.integers(-(10**30), 10**30) | strategies.floats(allow_nan=False)
scalars = strategies.none() | strategies.booleans() | numbers | texts
values = strategies.recursive(
    scalars,
    lambda inner: (
        strategies.lists(inner, max_size=4) | strategies.dictionaries(texts.filter(is_key), inner, max_size=4)
    ),
    max_leaves=20,
)
maps = strategies.dictionaries(texts.filter(is_key), values, max_size=5)


def read(text, *, is_json):
    report = Report()
    tree = load_text(text, "text", report, is_json=is_json)
    report.raise_if_any()
    return tree.plain()


def check_comes_back(data):
    for write, is_json in ((as_yaml, False), (as_json, True)):
        text = write(data)
        assert repr(read(text, is_json=is_json)) == repr(data)
        assert text.replace("\n", "").isprintable()


@hypothesis.given(data=maps)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_data_comes_back_with_its_types_and_in_its_order(data):
    check_comes_back(data)


@pytest.mark.slow
@hypothesis.given(data=maps)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_data_comes_back(data):
    check_comes_back(data)


@pytest.mark.parametrize(("write", "is_json"), [(as_yaml, False), (as_json, True)], ids=["yaml", "json"])
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_texts_stay_texts_wherever_they_stand(write, is_json, text):
    data = {"entry": text, "list": [text], "map": {text or "-": text}, "deep": [[text, {"a": {"b": text}}]]}
    assert read(write(data), is_json=is_json) == data


@pytest.mark.parametrize("text", [text for text in NASTY if text.isprintable()], ids=ascii)
def test_texts_are_texts_for_other_readers_of_yaml_too(text):
    """PyYAML reads by version 1.1, where `no` is false and `12:30` a number."""
    assert yaml.safe_load(as_yaml({"a": text})) == {"a": text}


@hypothesis.given(data=maps)
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_json_is_what_pythons_own_reader_takes(data):
    assert json.loads(as_json(data)) == data


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-5, "1.0e-5"),
        (1e22, "1.0e+22"),
        (2.0, "2.0"),
        (-0.0, "-0.0"),
        (0.001, "0.001"),
        (math.inf, ".inf"),
        (True, "true"),
    ],
)
def test_numbers_are_short_and_numbers_to_every_reader(number, text):
    assert as_yaml({"a": number}) == f"a: {text}\n"
    assert yaml.safe_load(as_yaml({"a": number})) == {"a": number}


def test_nan_is_yaml_and_no_json():
    assert math.isnan(read(as_yaml({"a": math.nan}), is_json=False)["a"])
    with pytest.raises(ArgumentError, match="NaN"):
        as_json({"a": [math.nan]})


def test_infinity_is_said_in_json():
    assert json.loads(as_json({"a": math.inf, "b": -math.inf})) == {"a": math.inf, "b": -math.inf}


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_our_specs_come_back_from_json_and_yaml(file):
    data = read(file.read_text(), is_json=False)
    text = as_json(data)
    assert repr(json.loads(text)) == repr(data)
    again = read(text, is_json=True)
    assert repr(again) == repr(data)
    assert repr(read(as_yaml(again), is_json=False)) == repr(data)
    assert max(map(len, as_yaml(data).splitlines())) <= WIDTH


def test_short_maps_stand_on_one_line_and_others_have_a_line_for_each_entry():
    row = {"i": 1, "sizes": [3, 3]}
    data = {"repeat": [row, row], "long": [10**9] * 12, "nested": {"a": row, "b": {}, "c": [[1], [[[2]]]]}, "empty": []}
    assert as_yaml(data) == (
        "repeat:\n  - {i: 1, sizes: [3, 3]}\n  - {i: 1, sizes: [3, 3]}\nlong:\n"
        + "  - 1000000000\n" * 12
        + "nested:\n  a: {i: 1, sizes: [3, 3]}\n  b: {}\n  c:\n    - [1]\n    - - [[2]]\nempty: []\n"
    )
    assert as_json({"repeat": [row], "empty": {}}) == (
        '{\n  "repeat": [\n    {"i": 1, "sizes": [3, 3]}\n  ],\n  "empty": {}\n}\n'
    )


def test_nothing_is_an_empty_map():
    assert (as_yaml({}), as_json({})) == ("{}\n", "{}\n")


def test_the_reader_takes_any_layout_of_json():
    data = {"a b": {"c": [1, 2.5, None, True]}, "t\t": 'x"\\', "🙂": "\u2028 y\x85"}
    for text in (
        json.dumps(data, separators=(",", ":")),
        json.dumps(data, indent="\t"),
        json.dumps(data, ensure_ascii=False, indent=1),
        json.dumps(data, indent=1, separators=(" ,\n", "\t\n :\t")),
    ):
        assert read(text, is_json=True) == data


def test_places_in_json_are_those_of_its_text():
    text = '{"🙂 \\ud83d\\ude42" : 1,\t"a"\t:{"\\\\ud83d" : [1,\t*x]}}'
    with pytest.raises(SpecError) as caught:
        read(text, is_json=True)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (1, text.index("*x") + 1)
