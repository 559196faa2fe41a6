"""The spec language as plain data: every key with its type, default and description.

Nothing is declared here. Sections are pydantic models; layers, losses and data sets are registered with typed
signatures; Keras documents its own layers. All become one form, JSON Schema, of which `json_schema` makes the editors'
schema and `reference_page` a page.
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

from encapkeras.data import DataSettings
from encapkeras.layers import LAYERS
from encapkeras.layers.backbone import backbone_arguments
from encapkeras.losses import SideLoss
from encapkeras.registry import Entry, argument_docs
from encapkeras.spec.keras_layers import keras_layer, object_kind, parameters
from encapkeras.spec.keras_names import APPLICATIONS, PREFIX
from encapkeras.spec.renamed import RENAMED
from encapkeras.spec.sections import NodeKeys, TopLevel
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.validation import REQUIRED, STRICT, Argument

Schema = dict[str, Any]

OBJECT = "x-keras-object"  # in place of a type: a named Keras object, such as an initializer
TENSOR = "x-tensor"  # marks a string that refers to a node

# Keys that the reader consumes before it checks a section, so that the section's model lacks them.
_EXTENDS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "A file that this one builds on, or a list of them: in its folder or below it, or one of the "
    "bundled specs. Maps merge deeply, lists are replaced, `null` deletes; later files override earlier ones.",
}
_SCHEMA: Schema = {"type": "string", "description": "Where editors find the JSON Schema of this file."}
_REPEAT: Schema = {
    "type": "array",
    "items": {"type": "object"},
    "minItems": 1,
    "description": "Makes a node for each row. A row is a map of names, such as `{i: 1}`, that only this node sees, as "
    "`$i`; one of them must be part of the node's own name: `stage$i`. In `inputs`, `$previous` is the row before, and "
    "in the first row the node above.",
}

_NOT_ARGUMENTS = ("name", *NodeKeys.model_fields)
_ARGS = re.compile(r"^( *)Arg(?:ument)?s:\n((?:\1 .*\n?|[ \t]*\n)+)", re.MULTILINE)


def section(model: type[pydantic.BaseModel]) -> Schema:
    """Return the keys of a section, with those of the sections inside it."""
    return _inlined(model.model_json_schema())


def train() -> Schema:
    """Return the keys of `train`, with former names marked as deprecated."""
    schema = section(TrainSettings)
    own = schema["properties"]
    former = {old: new for (path, old), new in RENAMED.items() if path == "train"}
    renamed = {old: {**own[new], "deprecated": True, "description": renamed_to(new)} for old, new in former.items()}
    return {**schema, "properties": {**own, **renamed}}


def renamed_to(name: str) -> str:
    """Return the explanation of a deprecated name."""
    return f"Deprecated: now called '{name}'."


def top_level() -> Schema:
    """Return the keys of a file."""
    schema = section(TopLevel)
    own = schema["properties"]
    first = {name: own.pop(name) for name in ("spec", "name", "source")}
    return {**schema, "properties": {"$schema": _SCHEMA, **first, "extends": _EXTENDS, **own}}


def node() -> Schema:
    """Return the keys that every node may have."""
    schema = section(NodeKeys)
    return {**schema, "properties": {**schema["properties"], "repeat": _REPEAT}}


def data() -> Schema:
    """Return the keys of `data` that all data sets share, `root` among them; each adds its own, as a layer does."""
    return section(DataSettings)


def registered(entry: Entry) -> Schema:
    """Return the arguments of a registered layer, loss or data set; of a side loss, also the tensors that it takes."""
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
    """Return the arguments of the layer `keras.NAME`, in Keras' own words."""
    # Keras declares no types: named objects are known by the argument's name, switches by their defaults.
    layer = keras_layer(name)
    docstring = (inspect.getdoc(layer) or "").replace("`", "")
    own = {key: value for key, value in parameters(layer).items() if key not in _NOT_ARGUMENTS}
    docs = _keras_docs(docstring)
    return {
        "description": docstring.partition("\n\n")[0].replace("\n", " "),
        "properties": {key: _keras_argument(value, docs.get(key, "")) for key, value in own.items()},
        "required": [key for key, value in own.items() if value.default is value.empty],
    }


def of_application(name: str) -> Schema:
    """Return the arguments of the network `keras.applications.NAME`."""
    own = {each.name: _argument(each) for each in backbone_arguments(name.removeprefix(APPLICATIONS))}
    return {"description": "A network of Keras without its classifier.", "properties": own, "required": []}


def layer(name: str) -> Schema:
    """Return the arguments of a registered layer or of one of Keras."""
    if name.startswith(APPLICATIONS):
        return of_application(name)
    return of_keras(name) if name.startswith(PREFIX) else registered(LAYERS[name])


def _argument(argument: Argument) -> Schema:
    kind = object_kind(argument.name)
    schema: Schema = {OBJECT: kind} if kind else _json_type(argument.annotation)
    return _explained(schema, argument.doc, argument.default)


def _json_type(annotation: Any) -> Schema:
    try:
        return _inlined(pydantic.TypeAdapter(annotation, config=STRICT).json_schema())
    except pydantic.errors.PydanticInvalidForJsonSchema:  # a type of the user's own, which only its code can check
        return {}


def _keras_argument(parameter: inspect.Parameter, doc: str) -> Schema:
    kind = object_kind(parameter.name)
    schema: Schema = {OBJECT: kind} if kind else {}
    if isinstance(parameter.default, bool):
        schema["type"] = "boolean"
    return _explained(schema, doc, parameter.default)


def _explained(schema: Schema, doc: str, default: Any) -> Schema:
    """Add the description, and the default if a file can hold it."""
    schema["description"] = doc
    if default is not REQUIRED:
        with contextlib.suppress(TypeError, ValueError):
            schema["default"] = json.loads(json.dumps(default, allow_nan=False))
    return schema


def _keras_docs(docstring: str) -> dict[str, str]:
    """Return what a docstring of Keras says of each argument, whatever its indentation."""
    found = _ARGS.search(docstring)
    return argument_docs(f"Args:\n{textwrap.indent(textwrap.dedent(found[2]), '    ')}") if found else {}


def _inlined(schema: Schema) -> Schema:
    """Return pydantic's schema without references and without the titles that pydantic makes of names."""
    definitions: Mapping[str, Schema] = schema.get("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(element) for element in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            part = {**definitions[part["$ref"].rpartition("/")[2]], **part}
        found = {
            key: inline(value)
            for key, value in part.items()
            if key not in ("$ref", "$defs") and not (key == "title" and isinstance(value, str))
        }
        if isinstance(found.get("description"), str):  # of a model, its docstring: the first paragraph is enough
            found["description"] = found["description"].partition("\n\n")[0].replace("\n", " ")
        return found

    inlined: Schema = inline(schema)
    return inlined
