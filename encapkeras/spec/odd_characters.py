"""Characters that are not what they look like: invisible ones, and those that look like others, such as a Cyrillic `a`.

They come with texts that are copied from web pages, documents and chats.
"""

from __future__ import annotations

import functools
import re
import unicodedata

# Letters of other alphabets that look like Latin ones, and signs that editors put in place of those on the keyboard.
_LOOK_LIKE = {
    **dict(zip("аеорсухіјѕһԁԛԝ", "aeopcyxijshdqw", strict=True)),  # noqa: RUF001
    **dict(zip("АВЕКМНОРСТХІЈЅ", "ABEKMHOPCTXIJS", strict=True)),  # noqa: RUF001
    **dict(zip("αονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aovABEZHIKMNOPTYX", strict=True)),  # noqa: RUF001
    **dict(zip("“”„‟‘’‚‛", "\"\"\"\"''''", strict=True)),  # noqa: RUF001
    **dict(zip("‐‑‒–—−∶꞉", "------::", strict=True)),  # noqa: RUF001
}
QUOTED = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|\'[^\']*+\'', re.DOTALL)
_COMMENT_OR_QUOTED = re.compile(rf"(?:^|(?<=\s))#[^\n]*|{QUOTED.pattern}", re.MULTILINE | re.DOTALL)
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those of YAML
_WORD = re.compile(r"\w+")


@functools.cache
def meant(character: str) -> str | None:
    """What a character looks like; empty if it is invisible; None if it is what it looks like."""
    if character.isascii():
        return None
    if unicodedata.category(character) == "Cf":
        return ""
    if character in _LOOK_LIKE:
        return _LOOK_LIKE[character]
    plain = unicodedata.normalize("NFKC", character)
    return plain if plain.isascii() and len(plain) == 1 else None


def as_meant(text: str) -> str:
    """The text with what its characters look like."""
    return "".join(each if (plain := meant(each)) is None else plain for each in text)


def first_odd(text: str, *, key: bool = False) -> int | None:
    """The place of the first character that is not what it looks like; None if there is none.

    A letter of another alphabet counts in a `key`, or next to a Latin letter: a name of a file may be Russian.
    """
    if text.isascii():
        return None
    for place, character in enumerate(text):
        if meant(character) is None:
            continue
        if key or not character.isalpha() or not unicodedata.category(character).startswith("L"):
            return place
        word = next(m[0] for m in _WORD.finditer(text) if m.start() <= place < m.end())
        if re.search("[A-Za-z]", word):
            return place
    return None


def described(character: str) -> str:
    """What a character is, in words, and what to do."""
    name = unicodedata.name(character, "a character without a name").lower()
    plain = meant(character)
    if not plain:
        return f"U+{ord(character):04X} ({name}) is invisible: remove it"
    shown = "a blank" if plain == " " else f'"{plain}"' if plain == "'" else f"'{plain}'"
    return f"U+{ord(character):04X} ({name}) looks like {shown}: write that"


def odd_near(text: str, place: int, column: int) -> int | None:
    """The first such character in the line of a place, which is in this column from 0, or in the one before it."""
    text = _COMMENT_OR_QUOTED.sub(lambda found: re.sub(r"\S", "_", found[0]), text)  # what is in these does no harm
    above = text[: place - column].rstrip("_ \n\r")
    begin = max((end.end() for end in _LINE_END.finditer(above)), default=0)
    end = _LINE_END.search(text, place)
    odd = first_odd(text[begin : end.start() if end else len(text)])
    return None if odd is None else begin + odd


def line_and_column(text: str, place: int, line: int = 1, column: int = 1) -> tuple[int, int]:
    """Where a place in a text is, if the text begins at this line and column."""
    ends = [end.end() for end in _LINE_END.finditer(text, 0, place)]
    return (line + len(ends), place - ends[-1] + 1) if ends else (line, column + place)
