"""Invisible characters, and those that look like others, are named with their code point, at their own place."""

import pytest

from encapkeras import SpecError, load_spec


def problem(tmp_path, text, name="spec.yaml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "hint"),
    [
        ("train:\n\u00a0 epochs: 3", 3, 1, "U+00A0 (no-break space)", "a blank"),
        ("train:\n  epochs:\u00a03", 3, 10, "U+00A0 (no-break space)", "a blank"),
        ("train:\n  epochs\u00a0: 3", 3, 9, "U+00A0 (no-break space)", "a blank"),
        ("train:\n  seed: 1\n  epochs: 3\u200b", 4, 12, "U+200B (zero width space)", "invisible"),
        ("train:\n  ep\u043echs: 3", 3, 5, "U+043E (cyrillic small letter o)", "'o'"),
        ("train:\n  optimizer: {kind: \u0430dam}", 3, 21, "U+0430 (cyrillic small letter a)", "'a'"),
        ("name: \u201cmine\u201d", 2, 7, "U+201C (left double quotation mark)", "'\"'"),
        ("train:\n  optimizer: {learning_rate: 1e\u22123}", 3, 32, "U+2212 (minus sign)", "'-'"),
        ("train\uff1a\n  epochs: 3", 2, 6, "U+FF1A (fullwidth colon)", "':'"),
        ("train: {epochs\uff1a3}", 2, 15, "U+FF1A (fullwidth colon)", "':'"),
        ("source: x\n\ufefftrain:\n  epochs: 3", 3, 1, "U+FEFF (zero width no-break space)", "invisible"),
        ("train:\n  epochs: 3\n \tseed: 3", 4, 2, "U+0009", "spaces"),
    ],
)
def test_an_odd_character_is_named_where_it_is(tmp_path, text, line, column, code, hint):
    found = problem(tmp_path, f"extends: quickstart.yaml\n{text}\n")
    assert (found.line, found.column) == (line, column), found
    assert code in found.message
    assert hint in found.message


def test_so_it_is_in_json(tmp_path):
    found = problem(tmp_path, '{"extends": "quickstart.yaml",\n "train": {"ep\u043echs": 3}}', "spec.json")
    assert (found.line, found.column) == (2, 15)


def test_so_it_is_on_the_command_line():
    with pytest.raises(SpecError, match=r"U\+FF13 \(fullwidth digit three\) looks like '3'"):
        load_spec("quickstart", ["train.epochs=\uff13"])


def test_texts_of_the_users_own_may_hold_any(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(
        "extends: quickstart.yaml  # \u201cquoted\u201d\n"
        "source: \u201cRouting\u201d\u00a0\u2014 by agreement\nx-not\u0435: \u00a0\n"
        "model: {nodes: {stem: {doc: \u0434\u0430 \u200b}}}\n",
        encoding="utf-8",
    )
    assert not load_spec(file).warnings


def test_a_letter_of_another_alphabet_in_a_name_of_its_alphabet_is_no_hint(tmp_path):
    found = problem(tmp_path, "extends: quickstart.yaml\ndata: {dataset: \u0434\u0430\u043d\u043d\u044b\u0435}\n")
    assert "U+" not in found.message
