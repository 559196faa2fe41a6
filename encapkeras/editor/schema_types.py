"""JSON Schema (draft-07) of values as specs may write them: also as a `$name` or `$(...)`, or as null, which deletes.

`value` is the one transform from a type, as `declarations` gives it, to the form that yaml-language-server completes,
explains and reports best. Its `errorMessage` replaces the server's own words; other readers of the schema ignore it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from encapkeras.editor.declarations import OBJECT, Schema
from encapkeras.editor.describe_types import default_in_words, in_words, listed
from encapkeras.layers.keras_objects import object_names
from encapkeras.spec.parse import OWN_KEYS

OWN = {f"^{OWN_KEYS}": True}  # keys that are the user's

_VARIABLE = r"\$"
_OR_VARIABLE = "or a variable such as $name"
_MANY = 16  # names that a message does not list
_TEXTS = ("description", "markdownDescription")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LENGTHS = ("minItems", "maxItems")


def value(declared: Schema) -> Schema:
    """Return what a spec may write for a value of a type."""
    words, kind = in_words(declared), declared.get("type")
    if OBJECT in declared:
        return {"allOf": [{"$ref": f"#/definitions/{declared[OBJECT]}"}]}
    if "oneOf" in declared:
        return _tagged(declared)
    if "enum" in declared or "const" in declared:
        return {"anyOf": [{"enum": _allowed(declared)}, _variable()]}
    if "anyOf" in declared:
        return _either([one for one in declared["anyOf"] if one != {"type": "null"}], words)
    if kind == "object":
        return _map(declared)
    if kind == "array":
        return {**_scalar("array", words), **_elements(declared)}
    return {**_scalar(kind, words), **_picked(declared, _LIMITS)} if kind else {}


def key(declared: Schema, *, required: bool = False) -> Schema:
    """Return what may follow a key, with its explanation; a deprecated one also warns where it is used."""
    words, default = in_words(declared), default_in_words(declared)
    remarks = [
        f"{words[0].upper()}{words[1:]}." if words else "",
        "Required." if required else "",
        f"Default: {default}." if default else "",
    ]
    paragraphs = [declared.get("description", ""), " ".join(remark for remark in remarks if remark)]
    schema = {**described("\n\n".join(text for text in paragraphs if text)), **value(declared)}
    # Keras gives some objects default names that it has no object for.
    usable = OBJECT not in declared or declared.get("default") in object_names(declared[OBJECT])
    if default and declared["default"] is not None and usable:
        schema["default"] = declared["default"]
    if declared.get("deprecated"):
        schema |= {"deprecated": True, "deprecationMessage": declared["description"]}
    return schema


def keys(declared: Schema) -> Schema:
    """Return what may follow each key of a map."""
    required = declared.get("required", ())
    return {name: key(entry, required=name in required) for name, entry in declared["properties"].items()}


def described(text: str) -> Schema:
    """Return a description, in both of the forms that editors know if it is more than plain text."""
    schema = {"description": text} if text else {}
    return {**schema, "markdownDescription": text} if "`" in text else schema


def texts_of(entry: Schema) -> Schema:
    """Return the description alone."""
    return _picked(entry, _TEXTS)


def section(properties: Schema, *, variable: bool = True) -> Schema:
    """Return a map of known keys; `variable` is whether a variable may replace the whole map."""
    return {**_map_type(variable), "properties": properties, "patternProperties": OWN, "additionalProperties": False}


def names_of(noun: str, names: Mapping[str, str], others: str = "") -> Schema:
    """Return one of some names, each explained, or a variable; `others` is a pattern of more, after a `|`."""
    which = f"known: {', '.join(names)}" if len(names) <= _MANY else "completion lists them all"
    # The first alternative's message is the one for an unknown name. With its own description it is not mistaken for
    # the conditions of `where`, which would muddle what editors explain.
    variable = _variable(f"there is no such {noun}; {which}", others)
    variable["description"] = f"A variable with the name of a {noun}."
    return {"anyOf": [variable, *({"const": name, **described(text)} for name, text in names.items())]}


def deprecated(name: str, message: str) -> Schema:
    """Return a name that is still accepted, with a warning where it is used."""
    return {"const": name, "description": message, "deprecated": True, "deprecationMessage": message}


def alternative(declared: Schema, common: Iterable[str], others: Schema | None = None) -> Schema:
    """Return the keys that a name adds to those that all names share; `others` are patterns of more."""
    return {
        **described(declared.get("description", "")),
        "properties": keys(declared),
        "patternProperties": {rf"^({'|'.join(common)})$|^{OWN_KEYS}": True, **(others or {})},
        "additionalProperties": False,
    }


def choice(tag: str, names: Schema, alternatives: Mapping[str, Schema], common: Schema | None = None) -> Schema:
    """Return a map some of whose keys depend on the name at `tag`; without it, every alternative's keys may follow."""
    common = {tag: names, **(common or {})}
    every: dict[str, list[Schema]] = {}
    for one in alternatives.values():
        for name, entry in one["properties"].items():
            every.setdefault(name, []).append(entry)
    return {
        "properties": common,
        "allOf": cases(tag, {(name,): then for name, then in alternatives.items()}),
        "if": {"required": [tag]},
        "else": {
            "properties": {name: _any_of(entries) for name, entries in every.items()},
            "patternProperties": {rf"^({'|'.join(common)})$|^{OWN_KEYS}": True},
            "additionalProperties": False,
        },
    }


def where(tag: str, names: Sequence[str], then: Schema) -> Schema:
    """Return a schema for maps whose tag has one of these names."""
    # Not `enum`, with which an editor takes a name's beginning for a match.
    pattern = f"^({'|'.join(map(re.escape, names))})$"
    return {"if": {"required": [tag], "properties": {tag: {"type": "string", "pattern": pattern}}}, "then": then}


def cases(tag: str, alternatives: Mapping[tuple[str, ...], Schema]) -> list[Schema]:
    """Return schemas for maps by their tag."""
    every = [(names, where(tag, names, then)) for names, then in alternatives.items()]
    size = math.isqrt(len(every))
    if size <= 3:
        return [case for _, case in every]
    # Groups, so that each map is compared with few: editors fail on large files otherwise.
    groups = [every[start : start + size] for start in range(0, len(every), size)]
    return [
        where(tag, [name for names, _ in group for name in names], {"allOf": [case for _, case in group]})
        for group in groups
    ]


def needs(declared: Schema) -> Schema:
    """Return the keys that must be present, here and in the maps below; empty if there are none."""
    if "oneOf" in declared:
        tag, alternatives = _alternatives(declared)
        inner = cases(tag, {(name,): needs(one) for name, one in alternatives.items() if needs(one)})
        return {"required": [tag], **({"allOf": inner} if inner else {})}
    for one in declared.get("anyOf", ()):
        if needs(one):
            return needs(one)
    below = {name: needs(entry) for name, entry in declared.get("properties", {}).items()}
    parts = {"required": declared.get("required"), "properties": {name: part for name, part in below.items() if part}}
    return {name: part for name, part in parts.items() if part}


def keras_object(kind: str) -> Schema:
    """Return a Keras initializer, regularizer, constraint or activation: its name, or its name and its numbers."""
    named = {"enum": object_names(kind)}
    config: Schema = {
        "type": "object",
        "properties": {"class_name": named, "config": {"type": ["object", "null"]}},
        "required": ["class_name"],
        "patternProperties": OWN,
        "additionalProperties": False,
    }
    unknown = _variable(f"Keras has no such {kind}; a variable such as $name is allowed too")
    return {"anyOf": [unknown, named, *([config] if kind != "activation" else [])]}


def _picked(schema: Schema, names: Iterable[str]) -> Schema:
    return {name: schema[name] for name in names if name in schema}


def _allowed(declared: Schema) -> list[object]:
    return list(declared.get("enum", [declared["const"]] if "const" in declared else []))


def _variable(message: str = "", others: str = "") -> Schema:
    """Return a variable, or null; as the first of several alternatives, its message is for everything else."""
    schema = {"type": ["string", "null"], "pattern": f"{_VARIABLE}{others}"}
    return {**schema, "errorMessage": message} if message else schema


def _scalar(kind: str, words: str) -> Schema:
    if kind == "string":
        return {"type": ["string", "null"], "errorMessage": f"must be {words}"}
    return {"type": [kind, "string", "null"], "pattern": _VARIABLE, "errorMessage": f"must be {words}, {_OR_VARIABLE}"}


def _elements(declared: Schema) -> Schema:
    schema = _picked(declared, _LENGTHS)
    return {**schema, "items": value(declared["items"])} if declared.get("items") else schema


def _any_of(entries: Sequence[Schema]) -> Schema:
    """Return what at least one alternative accepts behind a key, in the words of the first."""
    values = [{name: part for name, part in entry.items() if name not in _TEXTS} for entry in entries]
    distinct = [one for position, one in enumerate(values) if one not in values[:position]]
    if len(distinct) == 1:
        return entries[0]
    return {**texts_of(entries[0]), **({"anyOf": distinct} if all(distinct) else {})}


def _either(alternatives: Sequence[Schema], words: str) -> Schema:
    """Return one of several types: as one schema, for clear messages, if no keyword of one concerns another."""
    kinds = [one.get("type") for one in alternatives]
    if len(alternatives) == 1:
        return value(alternatives[0])
    if len(set(kinds)) < len(kinds) or not set(kinds) <= {"array", "string", "boolean", "integer", "number"}:
        return {"anyOf": [value(one) for one in alternatives]}
    schema: Schema = {}
    names = [str(name) for one in alternatives for name in _allowed(one)]
    for one in (one for one in alternatives if not _allowed(one)):
        # Elements in a condition: with a plain `items`, completion takes the whole for a list.
        schema |= {"if": {"type": "array"}, "then": _elements(one)} if one["type"] == "array" else value(one)
    schema |= _scalar(str(kinds[0]), words)
    schema["type"] = list(dict.fromkeys([*kinds, "string", "null"]))
    if names:
        schema["pattern"] = rf"{_VARIABLE}|^({'|'.join(map(re.escape, names))})$"
    elif "string" in kinds:
        schema.pop("pattern", None)
    return schema


def _map_type(variable: bool = True) -> Schema:
    if not variable:
        return {"type": ["object", "null"]}
    # An `errorMessage` would appear for unknown keys too.
    return {
        "type": ["object", "string", "null"],
        "pattern": _VARIABLE,
        "patternErrorMessage": f"must be a map, {_OR_VARIABLE}",
    }


def _map(declared: Schema) -> Schema:
    if "properties" in declared:
        return section(keys(declared))
    values = declared.get("additionalProperties")
    inner = {"patternProperties": OWN, "additionalProperties": value(values)} if isinstance(values, dict) else {}
    return {**_map_type(), **inner}


def _alternatives(declared: Schema) -> tuple[str, dict[str, Schema]]:
    """Return the key that distinguishes the members of a union, and the members."""
    tag: str = declared["discriminator"]["propertyName"]
    return tag, {one["properties"][tag]["const"]: one for one in declared["oneOf"]}


def _tagged(declared: Schema) -> Schema:
    tag, alternatives = _alternatives(declared)
    names = {name: one.get("description", "") for name, one in alternatives.items()}
    tags = {**described(f"One of {listed([f'`{name}`' for name in names])}."), **names_of(tag, names)}
    members = {
        name: {
            "properties": {k: v for k, v in one["properties"].items() if k != tag},
            "required": one.get("required", ()),
        }
        for name, one in alternatives.items()
    }
    return {**_map_type(), **choice(tag, tags, {name: alternative(one, [tag]) for name, one in members.items()})}
