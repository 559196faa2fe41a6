"""Check plain values against type annotations, and say in plain words what is wrong with each.

The one engine that decides what a map may hold. The annotations are the only declaration: a pydantic model for a
section of a spec, `Arguments` for what a registered layer, loss or data set takes, a layer of Keras, or a block.
Checking is strict: `True` is not an integer and `"3"` is not a number. Numbers and arrays of NumPy, and paths, become
Python's own numbers, lists and text first.
"""

from __future__ import annotations

import inspect
import numbers
import operator
import os
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from encapkeras.errors import ArgumentError, nearest, suggest_argument
from encapkeras.text import as_clause

STRICT = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)

REQUIRED = inspect.Parameter.empty

Path = tuple[str | int, ...]

# By pydantic's type of error; the last two are those of `error_of`.
_KINDS = {
    "extra_forbidden": "unknown",
    "missing": "missing",
    "union_tag_not_found": "missing",
    "problem_unknown": "unknown",
    "problem_missing": "missing",
}

# What other libraries have a key for, and specs do not.
_NO_KEYS = {
    **dict.fromkeys(
        ("num_classes", "n_classes", "classes"),
        "The data set says how many classes there are: write $classes where a number is needed.",
    ),
    "activation": "An activation is a node of its own: {layer: keras.Activation, activation: relu}.",
}


_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass(frozen=True)
class ValueProblem:
    """What is wrong at `path` in a value; `kind` is `unknown` for a key, `missing` for a required one, or `value`."""

    path: Path
    text: str
    kind: str = "value"


class Checker:
    """Checks values against one annotation: any type that pydantic understands, with its constraints."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        own_config = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
        config = None if own_config else STRICT
        self._adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation, config=config)

    def convert(self, value: Any) -> Any:
        """The value as the annotation's type; raises `pydantic.ValidationError` if it does not fit."""
        simple = plain(value)
        try:
            return self._adapter.validate_python(simple)
        except pydantic.ValidationError:
            if simple is value:
                raise
        return self._adapter.validate_python(value)  # such as an argument that is to be an array

    def problems(self, value: Any) -> list[ValueProblem]:
        """All that is wrong with the value; an empty list if nothing is."""
        try:
            self.convert(value)
            return []
        except pydantic.ValidationError:
            value = plain(value)
        try:
            self._adapter.validate_python(value)
        except pydantic.ValidationError as error:
            return self._described(error.errors(include_url=False), value)
        return []

    def _described(self, errors: Sequence[ErrorDetails], value: Any) -> list[ValueProblem]:
        """One problem per wrong place: alternatives of a union are joined by "or"."""
        texts: dict[tuple[Path, str], list[str]] = {}
        received: dict[Path, Any] = {}
        paths = [_path_in(value, error["loc"], error["type"]) for error in errors]
        for error, path in zip(errors, paths, strict=True):
            if error["type"].endswith("_type") and _has_own_type(error, path, errors, paths):
                continue
            if error["type"] == "union_tag_not_found":
                path = (*path, _discriminator(error))
            received[path] = error["input"]
            text = self._text(error, path, value)
            alternatives = texts.setdefault((path, _KINDS.get(error["type"], "value")), [])
            if text not in alternatives:
                alternatives.append(text)
        result = []
        for (path, kind), alternatives in texts.items():
            text = " or ".join([alternatives[0], *(a.removeprefix("must be ") for a in alternatives[1:])])
            # What is wrong with a map as a whole, its own check has said.
            whole_map = not path and isinstance(received[path], dict)
            if kind == "value" and not whole_map and not text.endswith((".", "?")) and "received" not in text:
                text = f"{text}; received {shown(received[path])}"
            result.append(ValueProblem(path, text, kind))
        return result

    def _text(self, error: ErrorDetails, path: Path, value: Any) -> str:
        return _phrase(error, path, _models_at(self.annotation, value, path[:-1]))


def error_of(
    title: str,
    problems: Sequence[ValueProblem],
    value: Mapping[str, Any],
    others: pydantic.ValidationError | None = None,
) -> pydantic.ValidationError:
    """Return the error by which a model's validator reports problems of keys, in addition to what pydantic found."""
    found = others.errors(include_url=False) if others else []
    details = [InitErrorDetails(type=e["type"], loc=e["loc"], input=e["input"], ctx=e.get("ctx", {})) for e in found]
    for problem in problems:
        if problem.path[0] not in {error["loc"][0] for error in found if error["loc"]}:
            error = PydanticCustomError(f"problem_{problem.kind}", "{text}", {"text": problem.text})
            details.append(InitErrorDetails(type=error, loc=problem.path, input=value.get(str(problem.path[0]))))
    return pydantic.ValidationError.from_exception_data(title, details)


@dataclass(frozen=True)
class Argument:
    """One argument: its type with constraints, its default or `REQUIRED`, and what the docstring says of it."""

    name: str
    annotation: Any
    default: Any = REQUIRED
    doc: str = ""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class _Fields:
    """Makes pydantic check a dict as a map of arguments; those with a default need not be given."""

    arguments: Mapping[str, Argument]

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(handler.generate_schema(argument.annotation), required=argument.required)
            for name, argument in self.arguments.items()
        }
        strict = core_schema.CoreConfig(strict=True, allow_inf_nan=False)  # those around a map do not reach into it
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid", config=strict)


class Arguments(Checker):
    """Checks maps of arguments; in messages `owner`, such as `layer 'squash'`, takes them, and one is `noun`."""

    def __init__(self, owner: str, arguments: Collection[Argument], noun: str = "an argument") -> None:
        self.owner = owner
        self.by_name = {argument.name: argument for argument in arguments}
        self._noun = noun
        super().__init__(Annotated[dict[str, Any], _Fields(self.by_name)])

    def unknown(self, key: str, others: Collection[str] = ()) -> str:
        """The message about a key that is neither an argument nor one of the others that the map may hold."""
        return f"'{key}' is not {self._noun} of {self.owner}. {key_hint(key, self.by_name, others)}"

    def missing(self, key: str) -> str:
        """The message about an argument that is required and missing."""
        doc = self.by_name[key].doc
        return f"{self.owner} needs '{key}'{': ' if doc else ''}{as_clause(doc)}"

    def _text(self, error: ErrorDetails, path: Path, value: Any) -> str:
        if len(path) == 1 and error["type"] == "extra_forbidden":
            return self.unknown(str(path[0]))
        if len(path) == 1 and error["type"] == "missing":
            return self.missing(str(path[0]))
        declared = self.by_name.get(str(path[0])) if len(path) > 1 else None
        models = _models_at(declared.annotation, value[path[0]], path[1:-1]) if declared else []
        return _phrase(error, path, models)


class Settings(pydantic.BaseModel):
    """Base class of the sections of a spec; made in Python, they raise `ArgumentError`, in the words of specs."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError:
            raise refusal(type(self).__name__, Checker(type(self)).problems(values)) from None

    # Pydantic then makes sections inside of others without calling it, so that their errors keep their places.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return plain(values)


def refusal(owner: str, problems: Sequence[ValueProblem]) -> ArgumentError:
    """The error that names all that is wrong with what an owner was given."""
    lines = [f"{owner}: {'.'.join(map(str, p.path))}: {p.text}" if p.kind == "value" else p.text for p in problems]
    return ArgumentError("\n".join(lines))


def plain(value: Any, depth: int = 100) -> Any:
    """The value, down to a depth, with Python's own numbers, lists and text for those of NumPy, and text for paths."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if type(value) is dict and depth:
        made = {plain(key): plain(entry, depth - 1) for key, entry in value.items()}
        return value if all(made.get(key) is entry for key, entry in value.items()) else made
    if type(value) in (list, tuple) and depth:
        parts = [plain(part, depth - 1) for part in value]
        return value if all(map(operator.is_, parts, value)) else type(value)(parts)
    return value


def shown(value: Any) -> str:
    """The value as messages show it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def key_hint(key: str, own: Collection[str], common: Collection[str] = ()) -> str:
    """The sentence that helps after an unknown key: as `suggest_argument`, or how specs say what it stands for."""
    if key in _NO_KEYS and not nearest(key, [*own, *common]):
        return _NO_KEYS[key]
    return suggest_argument(key, own, common)


def _discriminator(error: ErrorDetails) -> str:
    name: str = error["ctx"]["discriminator"]
    return name.strip("'")


def _phrase(error: ErrorDetails, path: Path, models: Sequence[type[pydantic.BaseModel]]) -> str:
    """The problem in words; `models` are those that the map around the wrong value may follow."""
    if error["type"] == "extra_forbidden":
        allowed = {field.alias or name for model in models for name, field in model.model_fields.items()}
        key = str(path[-1])
        return f"'{key}' is not allowed here. {key_hint(key, allowed)}"
    if error["type"] == "missing":
        return f"'{path[-1]}' is missing"
    if error["type"] in ("value_error", "assertion_error"):
        return str(error.get("ctx", {}).get("error", error["msg"]))
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        return "must not be empty" if least == 1 else f"must hold at least {least} values"
    if error["type"] == "too_long":
        return f"must hold at most {error['ctx']['max_length']} values"
    if error["type"] == "union_tag_not_found":
        tags = [tag for model in models for tag in typing.get_args(model.model_fields[str(path[-1])].annotation)]
        return f"must name its '{path[-1]}', one of these: {', '.join(map(repr, tags))}"
    if error["type"] == "union_tag_invalid":
        return f"must have one of these as {error['ctx']['discriminator']}: {error['ctx']['expected_tags']}"
    if error["type"] in ("model_type", "dataclass_type", "model_attributes_type"):
        return "must be a map"
    if error["type"] == "is_instance_of" and error["ctx"]["class"] == "Sequence":
        return "must be a list"
    message = error["msg"].replace("Input should be a valid ", "must be a ").replace("Input should be ", "must be ")
    return message.replace("must be a integer", "must be an integer").replace("dictionary", "map")


def _path_in(value: Any, location: Sequence[str | int], kind: str) -> Path:
    """Pydantic's location without the names of union members, which are not part of the user's value."""
    path: list[str | int] = []
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, dict) and (step in value or (last and kind in ("missing", "problem_missing"))):
            value = value.get(step)
            path.append(step)
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            value = value[step]
            path.append(step)
    return tuple(path)


def _has_own_type(error: ErrorDetails, path: Path, errors: Sequence[ErrorDetails], paths: Sequence[Path]) -> bool:
    """Whether a value is wrong in one type of a union, its own, so that the other types do not matter."""
    if isinstance(error["input"], dict) and any(inside and inside[:-1] == path for inside in paths):
        return True
    return any(at == path and other["type"] in _LIMITS for other, at in zip(errors, paths, strict=True))


def _models_at(annotation: Any, value: Any, path: Sequence[str | int]) -> list[type[pydantic.BaseModel]]:
    """The models that the map at a path inside the value may follow; of a union, the member that its tag names."""
    models = _named_by_tag(models_in(annotation), value)
    for step in path:
        if isinstance(value, list | tuple) and isinstance(step, int):
            value = value[step]
            models = _named_by_tag(models, value)
            continue
        fields = [model.model_fields.get(str(step)) for model in models]
        value = value.get(step) if isinstance(value, dict) else None
        inside = [inner for field in fields if field for inner in models_in(field.annotation)]
        models = _named_by_tag(inside if any(fields) else models, value)  # or it is a key of a map of such models
    return models


def _named_by_tag(models: list[type[pydantic.BaseModel]], value: Any) -> list[type[pydantic.BaseModel]]:
    """The models whose literal fields agree with the value, such as `kind: sgd`; all of them if none does."""

    def agrees(model: type[pydantic.BaseModel]) -> bool:
        literals = {
            n: f.annotation for n, f in model.model_fields.items() if typing.get_origin(f.annotation) is Literal
        }
        return all(value[n] in typing.get_args(literal) for n, literal in literals.items() if n in value)

    return [model for model in models if isinstance(value, dict) and agrees(model)] or models


def models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    """The models that a type is, or is made of, such as the members of a union."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, pydantic.BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in models_in(part)]
