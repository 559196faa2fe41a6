"""Types and defaults of the spec language in plain words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from encapkeras.editor.declarations import OBJECT, TENSOR, Schema

_NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("a string", "strings"),
}
_LARGEST_WORTH_SAYING = 2**31  # a limit from there on is a matter of memory
_CONFIG = ", or `{class_name: ..., config: {...}}`"
_OBJECTS = {
    "activation": "the name of a Keras activation",
    "initializer": f"the name of a Keras initializer{_CONFIG}",
    "regularizer": f"the name of a Keras regularizer{_CONFIG}",
    "constraint": f"the name of a Keras constraint{_CONFIG}",
}


def in_words(schema: Schema, *, many: bool = False) -> str:
    """Return what a value may be, such as "a whole number above 0, or null"; empty if it may be anything."""
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
        texts = [in_words(alternative, many=many) for alternative in schema["anyOf"]]
        return (" or " if many else ", or ").join(text for text in texts if text)
    kind = schema.get("type", "")
    if kind == "array":
        items = in_words(schema.get("items", {}), many=True)
        plain = "lists" if many else "a list"
        return f"{plain} of {items}" if items else plain
    if kind == "object":
        inner = schema.get("additionalProperties")
        values = in_words(inner, many=True) if isinstance(inner, dict) else ""
        return f"{'maps' if many else 'a map'}{' from names to ' if values else ''}{values}"
    if kind in _NOUNS:
        return f"{_NOUNS[kind][many]}{_range(schema)}"
    return {"boolean": "true or false", "null": "null"}.get(kind, "")


def default_in_words(schema: Schema) -> str:
    """Return the default as a spec would write it; empty if there is none that fits on a line."""
    default = schema.get("default")
    if "default" not in schema or isinstance(default, dict) or default == "":
        return ""
    return default if isinstance(default, str) else json.dumps(default)


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
        upper = f"{between}below {_power(schema['exclusiveMaximum'])}"
    return "".join(f" {limit}" for limit in (lower, upper) if limit)


def _power(number: Any) -> str:
    return "2^32" if number == 2**32 else str(number)


def listed(words: Sequence[str]) -> str:
    """Join words with commas, and an "or" before the last."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
