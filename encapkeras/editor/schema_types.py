"""JSON Schema (draft-07) of values as specs may write them: also as a `$name` or `$(...)`, or as null, which deletes.

Types come in as `declarations` gives them and go out in the forms that yaml-language-server completes, explains and
reports best. `errorMessage` is what it then says in place of its own words; other readers of the schema ignore it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from encapkeras.editor.declarations import OBJECT, Schema
from encapkeras.editor.describe_types import default_in_words, in_words, listed
from encapkeras.spec.inherit import OWN_KEYS
from encapkeras.spec.keras_layers import object_names

OWN = {f"^{OWN_KEYS}": True}  # keys that are the user's

_VARIABLE = r"\$"
_OR_VARIABLE = "or a variable such as $name"
_MANY = 12  # names that a message does not list
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def key(declared: Schema, *, required: bool = False) -> Schema:
    r"""What may stand behind a key, with its explanation.

    Example:
        >>> key({"type": "integer", "default": 3, "description": "Steps."})["description"]
        'Steps.\n\nA whole number. Default: 3.'
    """
    words, default = in_words(declared), default_in_words(declared)
    remarks = [
        f"{words[0].upper()}{words[1:]}." if words else "",
        "Required." if required else "",
        f"Default: {default}." if default else "",
    ]
    paragraphs = [declared.get("description", ""), " ".join(remark for remark in remarks if remark)]
    schema = {**described("\n\n".join(text for text in paragraphs if text)), **value(declared)}
    if default and declared["default"] is not None and _may_be_written(declared):
        schema["default"] = declared["default"]
    return schema


def _may_be_written(declared: Schema) -> bool:
    """Whether the default is a value for specs: Keras has some by names that it gives to nothing."""
    return OBJECT not in declared or declared["default"] in object_names(declared[OBJECT])


def described(text: str) -> Schema:
    """A description, in both of the forms that editors know if it is more than plain text."""
    schema = {"description": text} if text else {}
    return {**schema, "markdownDescription": text} if "`" in text else schema


def keys(declared: Schema) -> Schema:
    """Everything that may stand behind the keys of a map."""
    required = declared.get("required", ())
    return {name: key(entry, required=name in required) for name, entry in declared["properties"].items()}


def value(declared: Schema) -> Schema:
    """What a spec may write for a value."""
    if OBJECT in declared:
        return {"allOf": [{"$ref": f"#/definitions/{declared[OBJECT]}"}]}
    if "oneOf" in declared:
        return _tagged(declared)
    if "enum" in declared or "const" in declared:
        return {"anyOf": [{"enum": declared.get("enum", [declared.get("const")])}, _variable()]}
    if "anyOf" in declared:
        return _either([one for one in declared["anyOf"] if one != {"type": "null"}], in_words(declared))
    kind = declared.get("type")
    if kind == "object":
        return _map(declared)
    if kind == "array":
        return {**_scalar("array", in_words(declared)), **_elements(declared)}
    if kind:
        return {**_scalar(kind, in_words(declared)), **{name: declared[name] for name in _LIMITS if name in declared}}
    return {}


def section(properties: Schema, *, variable: bool = True) -> Schema:
    """A map of known keys.

    Args:
        properties: What may stand behind each.
        variable: Whether a variable may stand in place of the map.
    """
    return {**_map_type(variable), "properties": properties, "patternProperties": OWN, "additionalProperties": False}


def names_of(noun: str, names: Mapping[str, str], others: str = "") -> Schema:
    """One of some names, or a variable.

    Args:
        noun: What they are names of.
        names: The names, with what each stands for.
        others: A pattern of other names, after a `|`.
    """
    which = f"known: {', '.join(names)}" if len(names) <= _MANY else "completion lists them all"
    # The first alternative's message is the one for an unknown name. With a description of its own it is not taken for
    # the conditions of `where`, which would muddle what editors explain.
    variable = _variable(f"there is no such {noun}; {which}", others)
    variable["description"] = f"A variable with the name of a {noun}."
    return {"anyOf": [variable, *({"const": name, **described(text)} for name, text in names.items())]}


def alternative(declared: Schema, common: Iterable[str]) -> Schema:
    """The keys that a name brings with it, beside those that all names have in common."""
    ours = {rf"^({'|'.join(common)})$|^{OWN_KEYS}": True}
    return {
        **described(declared.get("description", "")),
        "properties": keys(declared),
        "patternProperties": ours,
        "additionalProperties": False,
    }


def where(tag: str, names: Sequence[str], then: Schema) -> Schema:
    """A schema for maps whose tag has one of these names.

    The pattern does what `enum` would, but in an editor it is not met by what begins like one of the names.
    """
    pattern = f"^({'|'.join(map(re.escape, names))})$"
    return {"if": {"required": [tag], "properties": {tag: {"type": "string", "pattern": pattern}}}, "then": then}


def cases(tag: str, alternatives: Mapping[tuple[str, ...], Schema]) -> list[Schema]:
    """Schemas for maps by their tag: what holds for each of some names.

    Many are divided into groups, so that each map is compared with few of them; editors else fail on large files.
    """
    every = [(names, where(tag, names, then)) for names, then in alternatives.items()]
    size = math.isqrt(len(every))
    if size <= 3:
        return [case for _, case in every]
    groups = [every[start : start + size] for start in range(0, len(every), size)]
    return [
        where(tag, [name for names, _ in group for name in names], {"allOf": [case for _, case in group]})
        for group in groups
    ]


def needs(declared: Schema) -> Schema:
    """The keys that must be there, and those that must be in the maps behind them; empty if there are none."""
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
    """An initialiser, regularizer, constraint or activation of Keras: its name, or its name and its numbers."""
    named = {"enum": object_names(kind)}
    config: Schema = {
        "type": "object",
        "properties": {"class_name": named, "config": {"type": ["object", "null"]}},
        "required": ["class_name"],
        "patternProperties": OWN,
        "additionalProperties": False,
    }
    unknown = _variable(f"Keras has no such {kind}; a variable such as $name may also stand here")
    return {"anyOf": [unknown, named, *([config] if kind != "activation" else [])]}


def _variable(message: str = "", others: str = "") -> Schema:
    """A variable, or null; the message is for all else if this is the first of several alternatives."""
    schema = {"type": ["string", "null"], "pattern": f"{_VARIABLE}{others}"}
    return {**schema, "errorMessage": message} if message else schema


def _scalar(kind: str, words: str) -> Schema:
    message = f"must be {words}, {_OR_VARIABLE}"
    if kind == "string":
        return {"type": ["string", "null"], "errorMessage": f"must be {words}"}
    return {"type": [kind, "string", "null"], "pattern": _VARIABLE, "errorMessage": message}


def _elements(declared: Schema) -> Schema:
    schema: Schema = {name: declared[name] for name in ("minItems", "maxItems") if name in declared}
    return {**schema, "items": value(declared["items"])} if declared.get("items") else schema


def _either(alternatives: Sequence[Schema], words: str) -> Schema:
    """One of several types: as one schema if no keyword of one concerns another, which makes for clear messages."""
    kinds = [one.get("type") for one in alternatives]
    if len(alternatives) == 1:
        return value(alternatives[0])
    if len(set(kinds)) < len(kinds) or not set(kinds) <= {"array", "string", "boolean", "integer", "number"}:
        return {"anyOf": [value(one) for one in alternatives]}
    schema: Schema = {}
    names = [name for one in alternatives for name in one.get("enum", [one["const"]] if "const" in one else [])]
    for one in (one for one in alternatives if not {"enum", "const"} & set(one)):
        # Elements in a condition: where `items` stands openly, completion takes the whole for a list.
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
    # `errorMessage` would be said of unknown keys too.
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
    """The tag that tells the members of a union apart, and the members."""
    tag: str = declared["discriminator"]["propertyName"]
    return tag, {one["properties"][tag]["const"]: one for one in declared["oneOf"]}


def _tagged(declared: Schema) -> Schema:
    tag, alternatives = _alternatives(declared)
    names = {name: one.get("description", "") for name, one in alternatives.items()}
    tags = {**described(f"One of {listed([f'`{name}`' for name in names])}."), **names_of(tag, names)}
    return {**_map_type(), **choice(tag, tags, {name: _member(tag, one) for name, one in alternatives.items()})}


def _member(tag: str, declared: Schema) -> Schema:
    own = {name: entry for name, entry in declared["properties"].items() if name != tag}
    return alternative({"properties": own, "required": declared.get("required", ())}, [tag])


def choice(tag: str, names: Schema, alternatives: Mapping[str, Schema], common: Schema | None = None) -> Schema:
    """Keys of a map that depend on a name in it. Where the name is not given, any of their keys may stand.

    Args:
        tag: The key with the name.
        names: What may stand there.
        alternatives: By name, the keys that it brings with it, as `alternative` makes them.
        common: Keys that do not depend on it.
    """
    every = {name: texts_of(entry) for one in alternatives.values() for name, entry in one["properties"].items()}
    common = {tag: names, **(common or {})}
    return {
        "properties": common,
        "allOf": cases(tag, {(name,): then for name, then in alternatives.items()}),
        "if": {"required": [tag]},
        "else": {
            "properties": every,
            "patternProperties": {rf"^({'|'.join(common)})$|^{OWN_KEYS}": True},
            "additionalProperties": False,
        },
    }


def texts_of(entry: Schema) -> Schema:
    """The description alone."""
    return {name: entry[name] for name in ("description", "markdownDescription") if name in entry}
