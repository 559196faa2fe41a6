"""Plain data as the text of a spec, YAML or JSON, that our own reader reads back as the same values.

Maps and lists of scalars are on one line where they fit; all else has a line for each entry. PyYAML's dumper cannot
decide that by the width, and quotes by YAML 1.1; here a text is quoted wherever any version could read something else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from encapkeras.errors import ArgumentError

WIDTH = 120

Scalar = Callable[[Any], str]

# Words of letters, digits and signs that mean nothing in YAML at their place, separated by single spaces.
_PLAIN = re.compile(r"(?:[^\W\d]|\$|/|\./)[\w.$/()+*%<>=~'-]*(?: [\w.$/()+*%<>=~'-]+)*")
_OTHER_VALUES = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # in YAML 1.2, or in 1.1
_EXPONENT = re.compile(r"e([+-])0*(?=\d)")


def as_yaml(data: dict[str, Any]) -> str:
    """Return a map of plain data as YAML."""
    return "".join(f"{line}\n" for line in _yaml_lines(data, "")) if data else "{}\n"


def as_json(data: dict[str, Any]) -> str:
    """Return a map of plain data as JSON; infinity becomes a number too large for any reader, NaN raises an error."""
    return f"{_json_block(data, '')}\n" if data else "{}\n"


def yaml_line(value: Any) -> str:
    """Return a value in YAML, on one line."""
    return _line(value, _yaml_scalar)


def _yaml_lines(value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
    """Yield the lines of a map or list with an entry or element on each."""
    inner = f"{indent}  "
    if isinstance(value, dict):
        for key, entry in value.items():
            head = f"{indent}{_yaml_scalar(key)}:"
            line = _fitting(entry, _yaml_scalar, len(head) + 1)
            yield head if line is None else f"{head} {line}"
            if line is None:
                yield from _yaml_lines(entry, inner)
        return
    for element in value:
        line = _fitting(element, _yaml_scalar, len(inner))
        first, *others = _yaml_lines(element, inner) if line is None else [inner + line]
        yield f"{indent}- {first.removeprefix(inner)}"
        yield from others


def _json_block(value: dict[str, Any] | list[Any], indent: str) -> str:
    """Return a map or list with an entry or element on each line."""
    inner = f"{indent}  "
    is_map = isinstance(value, dict)
    heads = [f"{inner}{_json_scalar(key)}: " for key in value] if is_map else [inner] * len(value)
    lines = []
    for head, entry in zip(heads, value.values() if isinstance(value, dict) else value, strict=True):
        line = _fitting(entry, _json_scalar, len(head) + 1)  # and a comma
        lines.append(f"{head}{_json_block(entry, inner) if line is None else line}")
    opening, closing = "{}" if is_map else "[]"
    return "\n".join([opening, ",\n".join(lines), f"{indent}{closing}"])


def _fitting(value: Any, scalar: Scalar, before: int) -> str | None:
    """Return the value on one line, of which `before` characters are taken; None if it needs several."""
    if not isinstance(value, dict | list) or not value:
        return _line(value, scalar)
    if not all(map(_is_short, value.values() if isinstance(value, dict) else value)):
        return None
    line = _line(value, scalar)
    return line if before + len(line) <= WIDTH else None


def _is_short(value: Any) -> bool:
    """Return whether a value may be on the line of its map or list: a scalar, or a list of scalars."""
    return not (isinstance(value, dict) and value) and not (
        isinstance(value, list) and any(isinstance(element, dict | list) for element in value)
    )


def _line(value: Any, scalar: Scalar) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {_line(entry, scalar)}' for key, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_line(element, scalar) for element in value)}]"
    return scalar(value)


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.isprintable() and value.lower() not in _OTHER_VALUES
        return value if plain else _quoted(value, lambda c: f"\\U{ord(c):08x}")
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    mantissa, exponent, power = _number(value).partition("e")
    if not exponent or not isinstance(value, float):
        return _number(value)
    # Readers of YAML 1.1, such as PyYAML, take what has no point, or no sign of the power, for a text.
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{'' if power.startswith('-') else '+'}{power}"


def _json_scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value, lambda c: json.dumps(c)[1:-1])
    if isinstance(value, float) and math.isnan(value):
        raise ArgumentError("JSON cannot express NaN, '.nan' in YAML; write the spec as YAML")
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return _number(value)


def _number(value: float | bool | None) -> str:
    return _EXPONENT.sub(lambda e: f"e{e[1].replace('+', '')}", json.dumps(value))


def _quoted(text: str, escaped: Callable[[str], str]) -> str:
    """Quote a text as JSON, and YAML, do; `escaped` writes an unprintable character beyond U+FFFF."""
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else escaped(c) for c in quoted)
