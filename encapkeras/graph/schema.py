"""Step 5: what a spec may contain: its sections, what stands in every node, and the arguments of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import keras
import pydantic
from pydantic import Field

from encapkeras.errors import suggest
from encapkeras.graph.keras_layers import (
    FIT_FOR_CAPSULES,
    PREFIX,
    argument_problems,
    keras_layer,
    keras_layer_names,
    object_problem,
    parameters,
    plain_object,
    with_image_format,
)
from encapkeras.layers import LAYERS
from encapkeras.registry import Entry
from encapkeras.validation import Checker, ValueProblem

Size = Annotated[int, Field(ge=1, le=2**31)]
Shape = Annotated[list[Size | None], Field(min_length=1, max_length=8)]
Policy = Literal["float16", "float32", "float64", "bfloat16", "mixed_float16", "mixed_bfloat16"]


class Section(pydantic.BaseModel):
    """A map of a spec: unknown keys and ill-typed values are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """The `model:` section."""

    inputs: Annotated[dict[str, Shape], Field(min_length=1)] = Field(
        {}, description="Shape of each input without the batch; `{image: [$height, $width, $channels]}` if not given."
    )
    defaults: dict[str, dict[str, Any]] = Field({}, description="Arguments for all nodes of a layer, by layer.")
    nodes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        description="The nodes by name: {layer, inputs, ...the layer's arguments}."
    )
    outputs: Annotated[dict[str, str], Field(min_length=1)] = Field(description="The node behind each output.")


REQUIRED = "required"


class BlockSection(Section):
    """One entry of `blocks:`, a part of a network that nodes name as `layer: block.NAME`."""

    doc: str = Field("", description="A remark.")
    inputs: Annotated[list[str], Field(min_length=1)] = Field(
        ["input"], description="What its nodes call the tensors that the block is called on, in their order."
    )
    parameters: dict[str, Any] = Field(
        {}, description=f"What a node that uses the block may set, with the default, or `{REQUIRED}` for none."
    )
    nodes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        description="Its nodes by name, as in 'model.nodes'; they see each other, the block's inputs and parameters, "
        "and 'vars'."
    )
    output: str = Field(description="Its node, or node/port, that stands for the block outside.")


Grid = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Variants = Annotated[list[Annotated[dict[str, Any], Field(min_length=1)]], Field(min_length=1)]
Seeds = int | Annotated[list[int], Field(min_length=1)]


class SweepSection(Section):
    """The `sweep:` section: what `encapkeras compare` trains instead of the spec as it is."""

    grid: Grid | None = Field(None, description="Values by path, as in `--set`: every combination is trained.")
    list: Variants | None = Field(
        None, description="Maps of a value by path, each a network; with a grid, each with every combination of it."
    )
    seeds: Seeds | None = Field(None, description="How many seeds, from 0, or which; `--seeds` goes before it.")


class TopLevel(Section):
    """The whole file, after `extends`; `data` and `train` have models of their own."""

    spec: Literal["encapkeras/1"] = Field("encapkeras/1", description="Version of the format.")
    name: str = Field("", description="Name of the network.")
    source: str = Field("", description="Where the network was published.")
    vars: dict[str, Any] = Field({}, description="Values to be written as $name elsewhere.")
    data: dict[str, Any] = Field({}, description="The data set and how batches are made of it.")
    blocks: dict[str, dict[str, Any]] = Field({}, description="Parts of networks, as `layer: block.NAME` in nodes.")
    model: dict[str, Any] = Field(description="The network.")
    losses: dict[str, dict[str, Any]] = Field(
        {}, description="The loss of each output, by the output's name; losses on other tensors, by names of their own."
    )
    train: dict[str, Any] = Field({}, description="How the network is trained.")
    sweep: dict[str, Any] = Field({}, description="Variants that `encapkeras compare` trains side by side.")


def _references(value: Any) -> Any:
    elements = value if isinstance(value, list) and value else [value]
    if not all(isinstance(element, str) for element in elements):
        raise ValueError("must be a node, node/port, or a list of them")
    return value


class NodeKeys(Section):
    """What every node may have beside its layer's own arguments."""

    layer: str = Field(description="A registered layer, keras.NAME, or block.NAME.")
    inputs: Annotated[str | list[str], pydantic.BeforeValidator(_references)] = Field(
        description="What the layer is called on: a node or input, `node/port`, or a list of them."
    )
    expect: Shape | None = Field(None, description="The shape that the node makes, without the batch.")
    doc: str = Field("", description="A remark.")
    trainable: bool = Field(True, description="Whether its weights are trained.")
    dtype: Policy | None = Field(None, description="The number format of its weights and results.")


class LossKeys(Section):
    """What every loss may have beside its own arguments."""

    loss: str = Field(description="A registered loss.")
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(1.0, description="What it is multiplied by.")


@dataclass(frozen=True)
class LayerKind:
    """A layer that nodes can have.

    Args:
        name: What stands behind `layer`.
        target: Its class.
        ports: Its outputs; a reference without a port means the one called `out`.
        entry: Its registration; None for a layer of Keras.
    """

    name: str
    target: type[keras.layers.Layer]
    ports: Sequence[str]
    entry: Entry | None = field(default=None, repr=False)

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments."""
        own = self.entry.arguments if self.entry else parameters(self.target)
        return [name for name in own if name not in ("name", "trainable", "dtype")]

    def problems(self, values: Mapping[str, Any]) -> list[ValueProblem]:
        """What is wrong with known arguments, and which are missing."""
        objects = {name: object_problem(name, value) for name, value in values.items()}
        found = [ValueProblem((name,), text) for name, text in objects.items() if text]
        sound = {name: value for name, value in values.items() if not objects[name]}
        others = self.entry.problems(sound) if self.entry else argument_problems(self.name, values)
        return [*found, *(p for p in others if p.kind != "missing" or p.path[0] not in values)]

    def make(self, name: str, arguments: Mapping[str, Any], policy: Any) -> keras.layers.Layer:
        """The layer; raises whatever its constructor raises."""
        values = {key: plain_object(value) for key, value in arguments.items()}
        if self.entry is None:
            values = with_image_format(self.target, values)
        return self.target(name=name, dtype=policy, **values)

    @property
    def takes_capsules(self) -> bool:
        """Whether it may stand behind a layer that makes maps of capsules."""
        return self.entry is not None or self.name.removeprefix(PREFIX) in FIT_FOR_CAPSULES


def layer_kind(name: str) -> LayerKind:
    """The layer that a spec calls by this name.

    Raises:
        LookupError: There is none; the message says what there is.

    Example:
        >>> layer_kind("capsule_stage").ports
        ('input', 'main', 'half', 'out')
    """
    if name.startswith(PREFIX):
        return LayerKind(name, keras_layer(name), ("out",))
    if name in LAYERS:
        entry = LAYERS[name]
        return LayerKind(name, entry.target, getattr(entry.target, "ports", ("out",)), entry)  # type: ignore[arg-type]
    known = keras_layer_names()
    if PREFIX + name in known:
        raise LookupError(f"no layer is called '{name}'. Did you mean '{PREFIX}{name}'?")
    raise LookupError(f"no layer is called '{name}'. {suggest(name, LAYERS)} Keras' own are called keras.NAME.")


def unknown_argument(name: str, what: str, own: Iterable[str], common: Iterable[str]) -> str:
    """The message for a key that is no argument: the nearest of all, or the thing's own ones."""
    near = suggest(name, [*own, *common])
    return f"'{name}' is not an argument of {what}. {near if near.startswith('Did') else suggest(name, own)}"


TOP_LEVEL = Checker(TopLevel)
MODEL = Checker(ModelSection)
NODE = Checker(NodeKeys)
LOSS = Checker(LossKeys)

__all__ = ["LOSS", "MODEL", "NODE", "TOP_LEVEL", "LayerKind", "layer_kind", "unknown_argument"]
