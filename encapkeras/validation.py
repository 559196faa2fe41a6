"""Checks plain values against type annotations and says in plain words what is wrong with each.

The annotations are the only declaration: of a layer's arguments (its typed `__init__`), and of a spec's sections
(pydantic models). Checking is strict: `True` is no integer and `"3"` is no number.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from encapkeras.errors import suggest

STRICT = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class ValueProblem:
    """What is wrong with one value.

    Args:
        path: Keys and indices that lead from the checked value to the wrong one; empty for the value itself.
        text: What it must be and what was received.
        kind: `unknown` for a key that is not allowed, `missing` for one that is due, `value` for all else.
    """

    path: tuple[str | int, ...]
    text: str
    kind: str = "value"


class Checker:
    """Checks values against one annotation.

    Args:
        annotation: Any type that pydantic understands, with its constraints.

    Example:
        >>> checker = Checker(pydantic.PositiveInt)
        >>> checker.problems(3)
        []
        >>> checker.problems(-1)[0].text
        'must be greater than 0; received -1'
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        own_config = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
        config = None if own_config else STRICT
        self._adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation, config=config)

    def convert(self, value: Any) -> Any:
        """The value as the annotation's type; raises `pydantic.ValidationError` if it does not fit."""
        return self._adapter.validate_python(value)

    def problems(self, value: Any) -> list[ValueProblem]:
        """All that is wrong with the value; an empty list if nothing is."""
        try:
            self._adapter.validate_python(value)
        except pydantic.ValidationError as error:
            return _in_plain_words(error.errors(include_url=False), self.annotation, value)
        return []


def _in_plain_words(errors: Sequence[ErrorDetails], annotation: Any, value: Any) -> list[ValueProblem]:
    """One problem per wrong place: alternatives of a union are joined by "or"."""
    texts: dict[tuple[tuple[str | int, ...], str], list[str]] = {}
    received: dict[tuple[str | int, ...], Any] = {}
    for error in errors:
        path = _path_in(value, error["loc"], error["type"])
        kind = {"extra_forbidden": "unknown", "missing": "missing"}.get(error["type"], "value")
        received[path] = error["input"]
        text = _phrase(error, path, annotation)
        alternatives = texts.setdefault((path, kind), [])
        if text not in alternatives:
            alternatives.append(text)
    result = []
    for (path, kind), alternatives in texts.items():
        text = " or ".join([alternatives[0], *(a.removeprefix("must be ") for a in alternatives[1:])])
        if kind == "value" and not text.endswith((".", "?")) and "received" not in text:
            text = f"{text}; received {shown(received[path])}"
        result.append(ValueProblem(path, text, kind))
    return result


def shown(value: Any) -> str:
    """The value as messages show it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _phrase(error: ErrorDetails, path: tuple[str | int, ...], annotation: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"'{path[-1]}' is not allowed here. {suggest(str(path[-1]), allowed_keys(annotation, path[:-1]))}"
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
        return f"must name its {error['ctx']['discriminator']}"
    if error["type"] == "union_tag_invalid":
        return f"must have one of these as {error['ctx']['discriminator']}: {error['ctx']['expected_tags']}"
    message = error["msg"].replace("Input should be a valid ", "must be a ").replace("Input should be ", "must be ")
    return (
        message.replace("must be a integer", "must be an integer")
        .replace("dictionary", "map")
        .replace(" or object to extract fields from", "")
    )


def _path_in(value: Any, location: Sequence[str | int], kind: str) -> tuple[str | int, ...]:
    """Pydantic's location without the names of union members, which are no part of the user's value."""
    path: list[str | int] = []
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, dict) and (step in value or (last and kind == "missing")):
            value = value.get(step)
            path.append(step)
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            value = value[step]
            path.append(step)
    return tuple(path)


def allowed_keys(annotation: Any, path: Sequence[str | int]) -> set[str]:
    """The keys that a map at the given path inside the annotation may have; of all members of a union."""
    models = _models(annotation)
    for step in path:
        inner: list[Any] = []
        for model in models:
            field = model.model_fields.get(str(step))
            inner.extend(_models(field.annotation) if field else [])
        models = inner
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, pydantic.BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]
