"""Step 1: text, or plain data, becomes a tree of values that know where they were written.

YAML is read event by event, with libyaml where PyYAML has it. Scalars have the types of YAML 1.2's core schema: `1e-3`
is a number and `no` is text. JSON is read as YAML, which it is once `_as_yaml` has adapted a few characters. Anchors,
aliases and tags are refused: `vars` and `extends` do their work and keep every place unique.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from encapkeras.errors import Problem, SpecError, nearest
from encapkeras.spec.odd_characters import QUOTED, as_meant, described, first_odd, line_and_column, odd_near
from encapkeras.spec.report import Report
from encapkeras.spec.tree import FAILED, Tree, child_path
from encapkeras.text import quoted
from encapkeras.validation import plain

LARGEST_FILE = 2 * 2**20  # a spec of 10,000 nodes is half as large
OWN_KEYS = "x-"  # how the user's own keys begin
ENDINGS = (".yaml", ".yml", ".json")
DEEPEST = 64  # maps and lists inside one another; each level is a call
LONGEST_NUMBER = 400
LONGEST_KEY = 1000
LONGEST_TEXT = 10_000
LONGEST_QUOTED = 200  # of a text that an error shows how to quote

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A text of JSON, also one that does not end, with the colon of a key; or a tab elsewhere.
_JSON_TEXT = re.compile(r'("[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z))(\s*+:)?|\t', re.DOTALL)
_JSON_ESCAPE = re.compile(
    r"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\.?|[\x7f\x85\u2028\u2029]", re.DOTALL
)
_JSON_RAW = {"\x7f": r"\x7f", "\x85": r"\N", "\u2028": r"\L", "\u2029": r"\P"}
_TAB_INDENT = re.compile(" *\t")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NAMED: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


def load_file(path: Path, shown: str, report: Report) -> Tree:
    """Read a spec file, called `shown` in messages; errors that leave the rest readable go to the report."""
    return load_text(read_text(path, shown), shown, report, is_json=is_json(path))


def read_text(path: Path, shown: str) -> str:
    """Return the text of a spec file."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)  # not its size first: a pipe or a device has none
    except FileNotFoundError:
        raise _error(shown, 0, 0, f"there is no such file. {_near_files(path)}".strip()) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _error(shown, 0, 0, f"the file cannot be read: {reason}") from None
    if len(raw) > LARGEST_FILE:
        raise _error(shown, 0, 0, f"the file is larger than {LARGEST_FILE // 2**20} MiB, the limit for a spec")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        text = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise _error(shown, line, column, text) from None


def is_json(path: Path) -> bool:
    """Return whether a file is read as JSON."""
    return path.suffix.lower() == ".json"


def load_text(text: str, shown: str, report: Report, *, is_json: bool) -> Tree:
    """Read the text of a spec file, as `load_file` does."""
    tree = _read(_as_yaml(text), shown, report, "JSON") if is_json else _read(text, shown, report)
    if not isinstance(tree.value, dict):
        held = "a list" if isinstance(tree.value, list) else f"only {tree.value!r}"
        what = "is empty" if tree.value is None else f"holds {held}"
        raise _error(shown, tree.line, tree.column, f"the file {what}; a spec is a map, for example 'model: ...'")
    return tree


def comments(text: str, *, is_json: bool) -> list[str]:
    """Return the comments of a valid text: what begins with `#` between its tokens."""
    text = _as_yaml(text) if is_json else text
    found, end = [], 0
    for token in yaml.scan(text, Loader=_LOADER):
        found += re.findall("#.*", text[end : token.start_mark.index])
        end = token.end_mark.index
    return found


def load_value(text: str, shown: str, path: str) -> Tree:
    """Read one value in YAML; its only place is `shown`."""
    report = Report()
    try:
        tree = _read(text, shown, report)
        report.raise_if_any()
    except SpecError as error:
        raise SpecError([Problem(shown, 0, 0, path, problem.message) for problem in error.problems]) from None
    return load_data(tree.plain(), shown, path)


def load_override(text: str, path: str) -> Tree:
    """Read the right side of a `--set`, of which YAML may not drop a part; errors say how to quote it."""
    try:
        tree = load_value(text, "--set", path)
        _refuse_loss(text, tree)
        return tree
    except SpecError as error:
        word = quoted(f"{path}={json.dumps(text, ensure_ascii=False)}")
        advice = f". If it is a text, quote it: --set {word}" if len(text) <= LONGEST_QUOTED else ""
        messages = [problem.message.removesuffix(".") + advice for problem in error.problems]
        raise SpecError([Problem("--set", 0, 0, path, message) for message in messages]) from None


def _refuse_loss(text: str, tree: Tree) -> None:
    """Raise an error if YAML drops a part of a text, which from the command line is never meant."""
    comment = next(iter(comments(text, is_json=False)), "")
    plain = text.lstrip(" ")
    if comment:
        lost = f"'{comment}' would be dropped: in YAML it is a comment"
    elif isinstance(tree.value, str) and plain[:1] not in "\"'|>" and tree.value != plain:
        lost = f"'{plain}' would be changed to '{tree.value}': YAML drops blanks and line ends"
    elif tree.value is None and plain.strip() not in _NAMED:
        lost = f"'{plain}' would be dropped: in YAML it is a mark between documents"
    else:
        return
    raise _error("--set", 0, 0, lost)


def load_data(data: Any, shown: str, path: str = "", depth: int = 0) -> Tree:
    """Read plain data: maps, lists and scalars."""
    if depth > DEEPEST:
        raise _error(shown, 0, 0, f"nested deeper than {DEEPEST} levels", path)
    if not isinstance(data, Mapping | list | tuple):
        data = plain(data)
    value = data
    if isinstance(data, Mapping):
        for key in data:
            if not isinstance(key, str) or not key:
                raise _error(shown, 0, 0, f"the key {key!r} is not text", path)
        value = {key: load_data(entry, shown, child_path(path, key), depth + 1) for key, entry in data.items()}
    elif isinstance(data, list | tuple):
        value = [load_data(element, shown, child_path(path, i), depth + 1) for i, element in enumerate(data)]
    elif data is not None and not isinstance(data, str | int | float):
        text = f"a {type(data).__name__} is not allowed; allowed: maps, lists, text, numbers, true, false, null"
        raise _error(shown, 0, 0, text, path)
    return Tree(value, shown, 0, 0, path)


def _error(shown: str, line: int, column: int, message: str, path: str = "") -> SpecError:
    return SpecError([Problem(shown, line, column, path, message)])


def _near_files(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in ENDINGS]
    except OSError:
        return f"The folder '{path.parent}' does not exist either."
    near = nearest(path.name, names)
    return f"Did you mean '{path.parent / near}'?" if near else ""


def _as_yaml(text: str) -> str:
    """Return JSON as YAML, with every value at its place."""
    # YAML refuses tabs as indentation, colons apart from their keys and pairs of surrogates, and breaks lines, or
    # stops, at characters that JSON allows in a text.

    def escaped(match: re.Match[str]) -> str:
        if match["pair"]:
            character = json.loads(f'"{match[0]}"')
            return f"\\U{ord(character):08x}"
        return _JSON_RAW.get(match[0], match[0])

    def adapted(match: re.Match[str]) -> str:
        if match[0] == "\t":
            return " "
        quoted, colon = _JSON_ESCAPE.sub(escaped, match[1]), (match[2] or "").replace("\t", " ")
        return f"{quoted}{colon[-1:]}{colon[:-1]}".ljust(len(match[0]))

    return _JSON_TEXT.sub(adapted, text)


def _read(text: str, shown: str, report: Report, language: str = "YAML") -> Tree:
    control = _CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        column = control.start() - text.rfind("\n", 0, control.start())
        raise _error(shown, line, column, f"the character U+{ord(control[0]):04X} is not allowed in a spec")
    try:
        return _Reader(text, shown, report).document()
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, shown, language) from None


def _syntax_error(error: yaml.YAMLError, text: str, shown: str, language: str) -> SpecError:
    """Return our words for what PyYAML refuses. Its own, which differ between versions, are only quoted behind them."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return _error(shown, 0, 0, f"invalid {language}: {error}")
    open_collections = _open_collections(text[: mark.index])
    if len(open_collections) > DEEPEST + 1:  # PyYAML looks ahead, and may refuse what our own bound has not seen yet
        return _too_deep(open_collections[DEEPEST + 1], shown)
    line, column = mark.line + 1, mark.column + 1
    character = text[mark.index : mark.index + 1]
    tab = _TAB_INDENT.match(text, mark.index - mark.column)
    if character == "\t" or tab:
        column = tab.end() - (mark.index - mark.column) if tab else column
        return _error(shown, line, column, "a tab (U+0009); YAML is indented with spaces")
    ends = {"": "end of the file", "\n": "end of the line", "\r": "end of the line"}
    what = "unexpected " + ends.get(character, f"'{character}'")
    quoted = " ".join(filter(None, (error.problem, error.context)))
    begin = error.context_mark
    if begin and text[begin.index : begin.index + 1] in ('"', "'") and not QUOTED.match(text, begin.index):
        what = f"the quoted text that starts on line {begin.line + 1}, column {begin.column + 1} is not closed"
    elif open_collections and open_collections[-1].flow_style:
        kind = "map" if isinstance(open_collections[-1], yaml.MappingStartEvent) else "list"
        what += f" in the {kind} that starts on line {open_collections[-1].start_mark.line + 1}"
    elif begin and begin.line != mark.line:
        quoted += f" that starts on line {begin.line + 1}"
    message = f"invalid {language}: {what} ({quoted})"
    odd = odd_near(text, mark.index, mark.column)
    if odd is None:
        return _error(shown, line, column, message)
    return _error(
        shown, *line_and_column(text, odd), f"{described(text[odd])}. Line {line}, column {column}: {message}"
    )


def _too_deep(event: Any, shown: str) -> SpecError:
    mark = event.start_mark
    return _error(shown, mark.line + 1, mark.column + 1, f"nested deeper than {DEEPEST} levels")


def _lacks_space(key: yaml.ScalarEvent, value: Any) -> bool:
    """Whether a key is `epochs:3` in `{epochs:3}`, which YAML reads as a key without a value."""
    is_empty = isinstance(value, yaml.ScalarEvent) and not value.value and not value.style
    return is_empty and not key.style and ":" in key.value.strip(":")


def _open_collections(text: str) -> list[Any]:
    """Return the events that begin the maps and lists not closed at the end of a text, the outermost first."""
    found: list[Any] = []
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                found.append(event)
            elif isinstance(event, yaml.CollectionEndEvent) and found:
                found.pop()
            if len(found) > DEEPEST + 1:
                break
    except yaml.YAMLError:  # it ends in the midst of something
        pass
    return found


_LEAVES = (yaml.ScalarEvent, yaml.AliasEvent)


class _Reader:
    """Turn the events of one YAML document into a tree."""

    def __init__(self, text: str, shown: str, report: Report) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._text = text
        self._can_be_odd = not text.isascii()
        self._shown = shown
        self._report = report

    def document(self) -> Tree:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Tree(None, self._shown, 1, 1, "")
        tree = self._value(next(self._events), "", 0)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._add(after, "", "a second document starts here; a file holds one spec")
        return tree

    def _tree(self, event: Any, path: str, value: Any) -> Tree:
        return Tree(value, self._shown, event.start_mark.line + 1, event.start_mark.column + 1, path)

    def _add(self, event: Any, path: str, message: str) -> None:
        self._report.add(self._tree(event, path, None), message)

    def _odd(self, event: Any, *, key: bool = False) -> tuple[int, int, str] | None:
        """Return line and column of the first character of a scalar that is not what it looks like, and it."""
        raw = self._text[event.start_mark.index : event.end_mark.index]
        place = first_odd(raw, key=key)
        if place is None:
            return None
        return *line_and_column(raw, place, event.start_mark.line + 1, event.start_mark.column + 1), raw[place]

    def _value(self, event: Any, path: str, depth: int) -> Tree:
        if depth > DEEPEST:
            raise _too_deep(event, self._shown)
        foreign = self._is_foreign(event, path)
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self._map(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(element := next(self._events), yaml.SequenceEndEvent):
                value.append(self._value(element, child_path(path, len(value)), depth + 1))
        elif not foreign:
            value = self._scalar(event, path)
            odd = self._odd(event) if self._can_be_odd else None
            if odd:
                self._report.note_odd(self._shown, path, *odd)
        tree = self._tree(event, path, FAILED if foreign else value)
        self._report.count(tree)
        return tree

    def _map(self, path: str, depth: int) -> dict[str, Tree]:
        entries: dict[str, Tree] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            name = key.value[:LONGEST_KEY] if isinstance(key, yaml.ScalarEvent) else ""
            entry_path = child_path(path, name) if name else path
            allowed = not self._is_foreign(key, entry_path) and self._is_key(key, entry_path, entries)
            if not isinstance(key, _LEAVES):
                self._value(key, entry_path, depth + 1)
            value = next(self._events)
            entry = self._value(value, entry_path, depth + 1)
            entry.line, entry.column = key.start_mark.line + 1, key.start_mark.column + 1
            if allowed and _lacks_space(key, value):
                what, _, rest = name.partition(":")
                self._add(key, entry_path, f"'{name}' has no value. Write a space after the colon: '{what}: {rest}'")
            elif allowed:
                entries[name] = entry
            elif first_odd(name, key=True) is not None:
                entries.setdefault(as_meant(name).strip(), entry.as_guess())
        return entries

    def _is_key(self, key: Any, path: str, entries: dict[str, Tree]) -> bool:
        """Return whether a key is text that occurs once; report it otherwise."""
        if not isinstance(key, yaml.ScalarEvent) or not key.value:
            self._add(key, path, "a key must be text")
        elif len(key.value) > LONGEST_KEY:
            self._add(key, path, f"a key of {len(key.value):,} characters; at most {LONGEST_KEY}")
        elif key.value == "<<" and not key.style:
            self._add(key, path, "merge keys ('<<') are not part of the spec language; use 'extends'")
        elif self._can_be_odd and (odd := self._odd(key, key=True)) and not f".{path}".count(f".{OWN_KEYS}"):
            line, column, character = odd
            at = Tree(None, self._shown, line, column, path)
            self._report.add(at, f"'{key.value}' is not a key: {described(character)}")
        elif key.value in entries and not entries[key.value].guessed:
            first = entries[key.value]
            self._add(key, path, f"'{key.value}' occurs twice; first on line {first.line}, column {first.column}")
        else:
            return True
        return False

    def _scalar(self, event: Any, path: str) -> Any:
        text = event.value
        if len(text) > LONGEST_TEXT:
            self._add(event, path, f"a text of {len(text):,} characters; at most {LONGEST_TEXT:,}")
            return FAILED
        if event.style:  # quoted, or a block of text; a plain scalar has no style
            return text
        if text in _NAMED:
            return _NAMED[text]
        integer, based = _INTEGER.fullmatch(text), _BASED_INTEGER.fullmatch(text)
        if not (integer or based or _FLOAT.fullmatch(text)):
            return text
        if len(text) > LONGEST_NUMBER:
            self._add(event, path, f"a number of {len(text)} characters")
            return FAILED
        if integer:
            return int(text)
        return int(text, 0) if based else float(text)

    def _is_foreign(self, event: Any, path: str) -> bool:
        """Return whether an event is an alias, or has an anchor or a tag, and report it."""
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            text = f"'{mark}{event.anchor}': anchors and aliases are not part of the spec language; name the value in "
            self._add(event, path, f"{text}'vars' and write '$name'")
        elif event.tag:
            self._add(event, path, f"the tag '{event.tag}' is not part of the spec language; remove it")
        else:
            return False
        return True
