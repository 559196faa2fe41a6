"""What the spec language consists of, as plain data: every key with its type, default and description.

Nothing is declared here. Sections are pydantic models, layers, losses and data sets are registered with typed
signatures, Keras documents its own layers; this reads all of them into one form, JSON Schema, of which `json_schema`
makes the editors' schema and `reference_page` a page.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import pydantic

from encapkeras.layers import LAYERS
from encapkeras.losses import SideLoss
from encapkeras.registry import Entry, argument_docs
from encapkeras.spec.keras_layers import PREFIX, keras_layer, object_kind, parameters
from encapkeras.spec.sections import NodeKeys, TopLevel
from encapkeras.validation import REQUIRED, STRICT, Argument

Schema = dict[str, Any]

OBJECT = "x-keras-object"  # in place of a type: a named object of Keras, such as an initialiser
TENSOR = "x-tensor"  # marks a text that refers to a node

# Keys that are used up before a section is checked, so that its model lacks them.
_EXTENDS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "A file that this one builds on, or a list of them: beside or below it, or among the specs that "
    "come with encapkeras. Maps merge deeply, lists are replaced, `null` deletes; later files go before earlier ones.",
}
_SCHEMA: Schema = {"type": "string", "description": "The place of a JSON Schema, for editors."}
_REPEAT: Schema = {
    "type": "array",
    "items": {"type": "object"},
    "minItems": 1,
    "description": "Makes a node of each row. A row is a map of names, such as `{i: 1}`, that mean something in this "
    "node alone, as `$i`; one of them must be part of the node's own name: `stage$i`. In `inputs`, `$previous` is the "
    "row before, and before the first row the node above.",
}

_NOT_ARGUMENTS = ("name", *NodeKeys.model_fields)
_ARGS = re.compile(r"^( *)Arg(?:ument)?s:\n((?:\1 .*\n?|[ \t]*\n)+)", re.MULTILINE)


def section(model: type[pydantic.BaseModel]) -> Schema:
    """The keys of a section, with those of the sections inside it.

    Example:
        >>> from encapkeras.spec.train_settings import TrainSettings
        >>> section(TrainSettings)["properties"]["epochs"]["default"]
        10
    """
    schema = model.model_json_schema()
    return _inlined(schema, schema.get("$defs", {}))  # type: ignore[no-any-return]


def top_level() -> Schema:
    """The keys of a file.

    Example:
        >>> list(top_level()["properties"])[:3]
        ['$schema', 'spec', 'name']
    """
    schema = section(TopLevel)
    own = schema["properties"]
    first = {name: own.pop(name) for name in ("spec", "name", "source")}
    return {**schema, "properties": {"$schema": _SCHEMA, **first, "extends": _EXTENDS, **own}}


def node() -> Schema:
    """The keys that every node may have.

    Example:
        >>> node()["required"]
        ['layer', 'inputs']
    """
    schema = section(NodeKeys)
    return {**schema, "properties": {**schema["properties"], "repeat": _REPEAT}}


def registered(entry: Entry) -> Schema:
    """The arguments of a registered layer, loss or data set; of a side loss, also the tensors that it takes.

    Example:
        >>> registered(LAYERS["capsule_stage"])["required"]
        ['types', 'dim']
    """
    target = entry.target
    tensors = target.tensors() if isinstance(target, type) and issubclass(target, SideLoss) else {}
    own = [argument for argument in entry.arguments.values() if argument.name not in _NOT_ARGUMENTS]
    return {
        "description": entry.summary,
        "properties": {
            **{name: {"type": "string", TENSOR: True, "description": doc} for name, doc in tensors.items()},
            **{argument.name: _argument(argument) for argument in own},
        },
        "required": [*(name for name in tensors if name != "labels"), *(a.name for a in own if a.required)],
    }


def of_keras(name: str) -> Schema:
    """The arguments of the layer `keras.NAME`, with Keras' own words about them.

    Keras declares no types: those of its named objects are known by their names, switches by their defaults.

    Example:
        >>> of_keras("keras.Dense")["properties"]["units"]["description"]
        'Positive integer, dimensionality of the output space.'
    """
    layer = keras_layer(name)
    docstring = (inspect.getdoc(layer) or "").replace("`", "")
    own = {key: value for key, value in parameters(layer).items() if key not in _NOT_ARGUMENTS}
    docs = _keras_docs(docstring)
    return {
        "description": docstring.partition("\n\n")[0].replace("\n", " "),
        "properties": {key: _keras_argument(value, docs.get(key, "")) for key, value in own.items()},
        "required": [key for key, value in own.items() if value.default is value.empty],
    }


def layer(name: str) -> Schema:
    """The arguments of a layer, registered or of Keras.

    Example:
        >>> layer("keras.Flatten")["required"], layer("squash")["required"]
        ([], [])
    """
    return of_keras(name) if name.startswith(PREFIX) else registered(LAYERS[name])


def _argument(argument: Argument) -> Schema:
    kind = object_kind(argument.name)
    schema: Schema = {OBJECT: kind} if kind else _json_type(argument.annotation)
    return _explained(schema, argument.doc, argument.default)


def _json_type(annotation: Any) -> Schema:
    try:
        schema = pydantic.TypeAdapter(annotation, config=STRICT).json_schema()
    except pydantic.errors.PydanticInvalidForJsonSchema:  # a type of the user's own, which only its code can check
        return {}
    return _inlined(schema, schema.get("$defs", {}))  # type: ignore[no-any-return]


def _keras_argument(parameter: inspect.Parameter, doc: str) -> Schema:
    kind = object_kind(parameter.name)
    schema: Schema = {OBJECT: kind} if kind else {}
    if isinstance(parameter.default, bool):
        schema["type"] = "boolean"
    return _explained(schema, doc, parameter.default)


def _explained(schema: Schema, doc: str, default: Any) -> Schema:
    """A type with its description, and with its default if there is one that a file can hold."""
    schema["description"] = doc
    if default is not REQUIRED:
        with contextlib.suppress(TypeError, ValueError):
            schema["default"] = json.loads(json.dumps(default, allow_nan=False))
    return schema


def _keras_docs(docstring: str) -> dict[str, str]:
    """What a docstring of Keras says of each argument, however deep it is indented."""
    found = _ARGS.search(docstring)
    return argument_docs(f"Args:\n{textwrap.indent(textwrap.dedent(found[2]), '    ')}") if found else {}


def _inlined(schema: Any, definitions: Mapping[str, Schema]) -> Any:
    """The schema without references, without the titles that pydantic makes of names, with short descriptions."""
    if isinstance(schema, list):
        return [_inlined(element, definitions) for element in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **schema}
    found = {
        key: _inlined(value, definitions)
        for key, value in schema.items()
        if key not in ("$ref", "$defs") and not (key == "title" and isinstance(value, str))
    }
    if isinstance(found.get("description"), str):  # of a model, its docstring, of which the first paragraph is enough
        found["description"] = found["description"].partition("\n\n")[0].replace("\n", " ")
    return found
