"""Types and defaults of the spec language in plain words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from encapkeras.editor.declarations import OBJECT, TENSOR, Schema

_NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
}
_LARGEST_WORTH_SAYING = 2**31  # a limit from there on is a matter of memory
_CONFIG = "`{class_name: ..., config: {...}}`"
_OBJECTS = {
    "activation": "the name of an activation of Keras",
    "initializer": f"the name of an initialiser of Keras, or {_CONFIG}",
    "regularizer": f"the name of a regularizer of Keras, or {_CONFIG}",
    "constraint": f"the name of a constraint of Keras, or {_CONFIG}",
}


def in_words(schema: Schema) -> str:
    """What a value may be; empty if it may be anything.

    Args:
        schema: A type, as `declarations` gives it.

    Example:
        >>> in_words({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
        'a whole number above 0, or null'
        >>> in_words({"type": "array", "items": {"enum": ["a", "b"]}})
        'a list of `a` or `b`'
        >>> in_words({"type": "number", "minimum": 0, "exclusiveMaximum": 1})
        'a number from 0 to below 1'
    """
    return _words(schema, many=False)


def default_in_words(schema: Schema) -> str:
    """The default as a spec would write it; empty if there is none, or none that can be written in a line.

    Example:
        >>> default_in_words({"default": [5, 3]}), default_in_words({"default": 1e-07})
        ('[5, 3]', '1e-07')
    """
    default = schema.get("default")
    if "default" not in schema or isinstance(default, dict) or default == "":
        return ""
    return default if isinstance(default, str) else json.dumps(default)


def _words(schema: Schema, *, many: bool) -> str:
    if OBJECT in schema:
        return _OBJECTS[schema[OBJECT]]
    if TENSOR in schema:
        return "a node, or node/port"
    if "const" in schema or "enum" in schema:
        return listed([f"`{value}`" for value in schema.get("enum", [schema.get("const")])])
    if "oneOf" in schema:
        key = schema["discriminator"]["propertyName"]
        return f"a map with `{key}`: {listed([f'`{name}`' for name in schema['discriminator']['mapping']])}"
    if "anyOf" in schema:
        texts = [_words(alternative, many=many) for alternative in schema["anyOf"]]
        return (" or " if many else ", or ").join(text for text in texts if text)
    kind = schema.get("type", "")
    if kind == "array":
        items = _words(schema.get("items", {}), many=True)
        plain = "lists" if many else "a list"
        return f"{plain} of {items}" if items else plain
    if kind == "object":
        values = _words(schema["additionalProperties"], many=True) if _holds_values(schema) else ""
        return f"{'maps' if many else 'a map'}{' from names to ' if values else ''}{values}"
    if kind in _NOUNS:
        return f"{_NOUNS[kind][many]}{_range(schema)}"
    return {"boolean": "true or false", "null": "null"}.get(kind, "")


def _holds_values(schema: Schema) -> bool:
    return isinstance(schema.get("additionalProperties"), dict)


def _range(schema: Schema) -> str:
    lower, upper = "", ""
    if "minimum" in schema:
        lower = f"from {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        lower = f"above {schema['exclusiveMinimum']}"
    if schema.get("maximum", _LARGEST_WORTH_SAYING) < _LARGEST_WORTH_SAYING:
        upper = f"to {schema['maximum']}"
    if "exclusiveMaximum" in schema:
        between = "to " if lower.startswith("from") else "and " if lower else ""
        upper = f"{between}below {_shown(schema['exclusiveMaximum'])}"
    return "".join(f" {limit}" for limit in (lower, upper) if limit)


def _shown(number: Any) -> str:
    return "2^32" if number == 2**32 else str(number)


def listed(words: Sequence[str]) -> str:
    """The words with commas, and an "or" before the last.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b or c'
    """
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
