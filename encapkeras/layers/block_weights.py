"""Keras weights of capsule convolution blocks, in torch's layouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import keras
import pydantic
import torch

from encapkeras.functional import (
    ApproximateWeights,
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    NormWeights,
    StepWeights,
)
from encapkeras.layers.initializers import get_initializer, in_torch_layout
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer

Steps = Annotated[int, pydantic.Field(ge=1, le=100)]
"""Steps of a block, each with its own weights; bounded, so that a typing error such as a billion is refused."""

MovingAverage = Literal["momentum", "warm"]
"""How batch norms average the statistics of batches; see `batch_norm`."""


NORMED_CONVOLUTION = ("kernel", "bias", "scale", "offset")
"""The weights of convolutions and batch norms, as `CapsuleLayer.regularizable` has them."""


class Weights:
    """A tree of Keras variables that Keras neither tracks twice nor takes apart."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree

    def tensors(self) -> Any:
        """Return the same tree with torch tensors, cast by the layer's dtype policy where it is being called."""
        return keras.tree.map_structure(lambda leaf: leaf if leaf is None else leaf.value, self._tree)


def norm_weights(norm: NormWeights) -> NormWeights:
    """Return the tensors of a norm that may lack scale and offset, with 1 and 0 in place of them."""
    scale = torch.ones_like(norm.mean) if norm.scale is None else norm.scale
    offset = torch.zeros_like(norm.mean) if norm.offset is None else norm.offset
    return norm._replace(scale=scale, offset=offset)


def is_count(variable: keras.Variable) -> bool:
    """Return whether this is the count of batches of a warm batch norm."""
    return bool(variable.name.endswith("_count") and variable.aggregation == "only_first_replica")


class BlockBuilder:
    """Adds the weights of convolutions, norms and blocks to a layer."""

    def __init__(
        self,
        layer: CapsuleLayer,
        kernel_initializer: InitializerConfig = "glorot_normal",
        bias_initializer: InitializerConfig = "zeros",
        *,
        moving_average: MovingAverage = "momentum",
        flat: bool = False,
    ) -> None:
        self._layer = layer
        self._flat = flat
        self._moving_average = moving_average
        self._kernel_initializer = kernel_initializer
        self._bias_initializer = bias_initializer

    def convolution(self, name: str, inputs: int, filters: int, size: int, groups: int = 1) -> ConvolutionWeights:
        """Add a kernel `(filters, inputs / groups, size, size)`, of one row if flat, and a bias `(filters,)`."""
        kernel = self.kernel(name, (filters, inputs // groups, 1 if self._flat else size, size))
        return ConvolutionWeights(kernel, self.bias(name, filters))

    def kernel(self, name: str, shape: tuple[int, ...]) -> Any:
        """Add a kernel in torch's layout `(filters, inputs / groups, height, width)`."""
        initializer = in_torch_layout(self._kernel_initializer, name)
        options = self._layer.regularizing("kernel", (2, 3, 1))
        return self._layer.add_weight(shape, initializer, name=f"{name}_kernel", **options)

    def bias(self, name: str, filters: int) -> Any:
        """Add a bias `(filters,)`."""
        initializer = get_initializer(self._bias_initializer, name)
        return self._layer.add_weight((filters,), initializer, name=f"{name}_bias", **self._layer.regularizing("bias"))

    def norm(self, name: str, channels: int, *, scale: bool = True, offset: bool = True) -> NormWeights:
        """Add scale, offset and moving statistics `(channels,)`; float32 or better under mixed precision.

        Scale and offset that are left out are None: see `norm_weights`.
        """

        def add(part: str, initializer: str, trainable: bool) -> Any:
            options = {"name": f"{name}_{part}", "trainable": trainable, "autocast": False}
            options.update(self._layer.regularizing(part))
            return self._layer.add_weight((channels,), initializer, **options)

        made_scale: Any = add("scale", "ones", True) if scale else None
        made_offset: Any = add("offset", "zeros", True) if offset else None
        return NormWeights(
            made_scale,
            made_offset,
            add("mean", "zeros", False),
            add("variance", "ones", False),
            self._count(name) if self._moving_average == "warm" else None,
        )

    def _count(self, name: str) -> Any:
        """Add a count of batches: exact in any precision, and of several processes that of the first."""
        dtype = "float64" if self._layer.variable_dtype == "float64" else "float32"
        options = {"trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        return self._layer.add_weight(shape=(), initializer="zeros", dtype=dtype, name=f"{name}_count", **options)

    def block(
        self,
        name: str,
        inputs: int,
        channels: int,
        *,
        steps: int,
        kernel_sizes: tuple[int, ...],
        approximate: bool,
        options: BlockOptions,
    ) -> BlockWeights:
        """Add the weights of a block of steps from `inputs` to `channels` channels."""
        made = []
        for number in range(1, steps + 1):
            step = f"{name}_{number}"
            step_inputs = inputs if number == 1 else channels
            routing = self._routing(step, step_inputs, channels, kernel_sizes, approximate, options.types)
            normed = channels if options.normalization == "channel" else options.types
            made.append(StepWeights(routing, self.norm(f"{step}_norm", normed)))
        changes_shape = inputs != channels or options.strides > 1
        projection = None
        if options.skip != "none" and changes_shape:
            projection = self.convolution(f"{name}_projection", inputs, channels, 3)
        return BlockWeights(tuple(made), projection)

    def _routing(
        self, step: str, inputs: int, channels: int, kernel_sizes: tuple[int, ...], approximate: bool, types: int
    ) -> tuple[ConvolutionWeights, ...] | ApproximateWeights:
        single = len(kernel_sizes) == 1
        master = tuple(
            self.convolution(f"{step}_master" if single else f"{step}_master_{size}", inputs, channels, size, types)
            for size in kernel_sizes
        )
        if not approximate:
            return master
        return ApproximateWeights(
            master,
            self.norm(f"{step}_master_norm", channels),
            self.convolution(f"{step}_aide", inputs, channels, max(kernel_sizes) + 4),
            self.norm(f"{step}_aide_norm", channels),
            self.convolution(f"{step}_master_coefficient", channels, types, 3, types),
            self.convolution(f"{step}_aide_coefficient", channels, types, 3, types),
        )
