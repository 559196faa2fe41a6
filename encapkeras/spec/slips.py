"""What a key in the wrong section, or a scalar in place of a map, was probably meant to be."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pydantic

from encapkeras.data import DataSettings
from encapkeras.errors import SYNONYMS
from encapkeras.spec.sections import ModelSection, TopLevel
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.validation import Checker, models_in

_SECTIONS: dict[str, type[pydantic.BaseModel]] = {"data": DataSettings, "model": ModelSection, "train": TrainSettings}
_MOST = 2  # places of a key; one with more of them could mean anything


def places_of(key: str) -> list[str]:
    """The places in a spec that a key was meant for, the outermost; empty if there is none of that name, or many."""
    found = [place for word in (key, *SYNONYMS.get(key, ())) for place in _places().get(word, ())]
    least = min((place.count(".") for place in found), default=0)
    outermost = [place for place in found if place.count(".") == least]
    return outermost if len(outermost) <= _MOST else []


def as_map(path: str, value: Any) -> dict[str, Any] | None:
    """The map with one entry that a scalar at a path was meant to be, such as `{kind: sgd}`; None if there is none."""
    if isinstance(value, dict | list) or value is None:
        return None
    for model in _models().get(path, ()):
        fields = model.model_fields
        required = [name for name, field in fields.items() if field.is_required()]
        for name in ("kind", *(required or [name for name in fields if len(fields) == 1])):
            meant = {name: value.lower() if name == "kind" and isinstance(value, str) else value}
            if name in fields and not Checker(model).problems(meant):
                return meant
    return None


@functools.cache
def _places() -> dict[str, list[str]]:
    """The paths of the keys of all sections, by the last step."""
    found: dict[str, list[str]] = {}
    for path in _models():
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return found


@functools.cache
def _models() -> dict[str, list[type[pydantic.BaseModel]]]:
    """The keys of all sections by their paths, each with the maps that may be there."""
    return {path: models for name, model in _SECTIONS.items() for path, models in _below(name, model)} | {
        name: [] for name in TopLevel.model_fields
    }


def _below(path: str, model: type[pydantic.BaseModel]) -> Iterator[tuple[str, list[type[pydantic.BaseModel]]]]:
    for name, field in model.model_fields.items():
        models = models_in(field.annotation)
        yield f"{path}.{name}", models
        for inner in models:
            yield from _below(f"{path}.{name}", inner)
