"""What the maps of a spec may contain: keys, types, descriptions. Declared here once, without Keras.

The sections `data` and `train` are declared by `encapkeras.data.DataSettings` and `train_settings`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from encapkeras.spec.train_settings import Section
from encapkeras.validation import Checker

Size = Annotated[int, Field(ge=1, le=2**31)]
Shape = Annotated[list[Size | None], Field(min_length=1, max_length=8)]
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_. -]")  # what a spec's name may not consist of
Policy = Literal["float16", "float32", "float64", "bfloat16", "mixed_float16", "mixed_bfloat16"]


class ModelSection(Section):
    """The `model:` section."""

    inputs: Annotated[dict[str, Shape], Field(min_length=1)] = Field(
        {},
        description="Shape of each input without the batch; of images `{image: [$height, $width, $channels]}` if not "
        "given.",
    )
    defaults: dict[str, dict[str, Any]] = Field({}, description="Arguments for all nodes of a layer, by layer.")
    nodes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        description="The nodes by name: {layer, inputs, ...the layer's arguments}."
    )
    outputs: Annotated[dict[str, str], Field(min_length=1)] = Field(description="The node behind each output.")


REQUIRED = "required"  # of a parameter of a block: there is no default


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
    output: str = Field(description="Its node whose output is that of the block.")


Finite = Annotated[float, Field(allow_inf_nan=False)]
Grid = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Variants = Annotated[list[dict[str, Any]], Field(min_length=1)]


MOST_SEEDS = 1000  # more is a slip: a seed that was meant as one of a list
MOST_SEED = 2**32 - 1


def _seeds(value: Any) -> Any:
    seeds = value if isinstance(value, list) else [value]
    most = MOST_SEED if isinstance(value, list) else MOST_SEEDS
    least = 0 if isinstance(value, list) else 1
    if not seeds or any(type(s) is not int or not least <= s <= most for s in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"must be how many, from 1 to {MOST_SEEDS}, or a list of distinct seeds from 0 to {MOST_SEED}")
    return value


Seeds = Annotated[
    Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    | Annotated[list[Annotated[int, Field(ge=0, le=MOST_SEED)]], Field(min_length=1)],
    pydantic.BeforeValidator(_seeds),
]


class Range(Section):
    """The values that the command `search` draws from, `low` and `high` included; whole numbers if both are."""

    low: int | Finite = Field(description="The lowest value.")
    high: int | Finite = Field(description="The highest value.")
    log: bool = Field(
        False, description="Whether values are drawn evenly on a logarithmic scale; `low` is then above 0."
    )

    @pydantic.model_validator(mode="after")
    def _check_order(self) -> Range:
        if not self.low < self.high:
            raise PydanticCustomError("order", "low must be below high")
        if self.log and self.low <= 0:
            raise PydanticCustomError("log", "low must be above 0 for a logarithmic scale")
        return self


class SweepSection(Section):
    """The `sweep:` section: what the commands `compare` and `search` train instead of the spec as it is."""

    grid: Grid | None = Field(None, description="Values by path, as in `--set`: every combination is trained.")
    list: Variants | None = Field(
        None,
        description="Maps of a value by path, each a network ({} is the spec as it is); with a grid, each with every "
        "combination of it.",
    )
    ranges: Annotated[dict[str, Range], Field(min_length=1)] | None = Field(
        None, description="Ranges of numbers by path, from which `search` draws; `grid` then has its other choices."
    )
    seeds: Seeds | None = Field(
        None, description="How many seeds, counting from 0, or which ones; `--seeds` overrides it."
    )


class TopLevel(Section):
    """The whole file, after `extends`; `data` and `train` have models of their own."""

    spec: Literal["encapkeras/1"] = Field("encapkeras/1", description="Version of the format.")
    name: str = Field("", description="Name of the network.")
    source: str = Field("", description="Where the network was published.")
    vars: dict[str, Any] = Field({}, description="Values that are written as $name elsewhere.")
    data: dict[str, Any] = Field({}, description="The data set and how batches are made of it.")
    blocks: dict[str, dict[str, Any]] = Field({}, description="Parts of networks, as `layer: block.NAME` in nodes.")
    model: dict[str, Any] = Field(description="The network.")
    losses: dict[str, dict[str, Any]] = Field(
        {}, description="The loss of each output, by the output's name; losses on other tensors, under any other name."
    )
    train: dict[str, Any] = Field({}, description="How the network is trained.")
    sweep: dict[str, Any] = Field(
        {}, description="Variants that `compare` trains side by side, or `search` draws from."
    )


def _references(value: Any) -> Any:
    elements = value if isinstance(value, list) and value else [value]
    if not all(isinstance(element, str) for element in elements):
        raise ValueError("must be a node, node/port, or a list of them")
    return value


Trainable = bool | Annotated[list[str], Field(min_length=1)]


class NodeKeys(Section):
    """What every node may have in addition to its layer's arguments."""

    layer: str = Field(description="A registered layer, keras.NAME, or block.NAME.")
    inputs: Annotated[str | list[str], pydantic.BeforeValidator(_references)] = Field(
        description="What the layer is called on: a node or input, `node/port`, or a list of them."
    )
    expect: Shape | None = Field(None, description="The output shape that the node must have, without the batch.")
    doc: str = Field("", description="A remark.")
    trainable: Trainable = Field(
        True,
        description="Whether its weights are trained; of a network of `keras.applications` also patterns of the names "
        "of its layers that are, such as `[expanded_conv_1*]`.",
    )
    dtype: Policy | None = Field(None, description="The dtype of its weights and outputs.")


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Ramp(Section):
    """A weight that changes linearly with the epochs: `from` in the first, `to` after `epochs` of them.

    In epoch e, from 1, it is `from + (to - from) * min((e - 1) / epochs, 1)`, the same in all steps of the epoch.

    Examples:
        >>> ramp = Ramp.model_validate({"from": 0, "to": 20, "epochs": 10})
        >>> [ramp.in_epoch(epoch) for epoch in (0, 1, 9, 10, 11)]
        [0.0, 2.0, 18.0, 20.0, 20.0]
    """

    start: Weight = Field(alias="from", description="The weight in the first epoch.")
    to: Weight = Field(description="The weight from epoch `epochs + 1` on, and outside of training.")
    epochs: pydantic.PositiveInt = Field(
        description="Epochs in which it changes: in epoch e, from 1, it is `from + (to - from) * min((e - 1) / epochs, "
        "1)`."
    )

    def in_epoch(self, epoch: int) -> float:
        """The weight in an epoch, from 0."""
        return self.to if epoch >= self.epochs else self.start + (self.to - self.start) * epoch / self.epochs


class LossKeys(Section):
    """What every loss may have in addition to its arguments."""

    loss: str = Field(description="A registered loss.")
    weight: Weight | Ramp = Field(
        1.0,
        description="Factor by which it is multiplied; of a side loss also `{from: 0, to: 20, epochs: 10}`, one that "
        "changes with the epochs.",
    )


TOP_LEVEL = Checker(TopLevel)
MODEL = Checker(ModelSection)
BLOCK = Checker(BlockSection)
NODE = Checker(NodeKeys)
LOSS = Checker(LossKeys)
SWEEP = Checker(SweepSection)
RANGE = Checker(Range)
