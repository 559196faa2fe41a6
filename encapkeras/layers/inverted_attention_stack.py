"""A stack of capsule layers by inverted dot-product attention, routed at once, as one Keras layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import inverted_attention_routing
from encapkeras.layers.inverted_attention_capsules import InvertedAttentionCapsules
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.sequence_masks import without_padding
from encapkeras.layers.window_layer import Matrices, WindowRecord
from encapkeras.validation import Settings


class StackedLayer(Settings):
    """One layer of a stack; what its keys mean, `inverted_attention_capsules` says."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    capsules: pydantic.PositiveInt = pydantic.Field(description="Number of parent types.")
    dim: pydantic.PositiveInt = pydantic.Field(description="Dimension of the parents.")
    kernel_size: WindowSize = pydantic.Field(
        default=None, description="Height and width of the window, or [rows, columns]; null: as large as the map."
    )
    strides: Strides = pydantic.Field(default=1, description="Step of the window, or [rows, columns].")
    padding: Padding = pydantic.Field(
        default=0, description="Rows and columns of nothing on each side, or [rows, columns]."
    )
    matrices: Matrices = pydantic.Field(default="offset", description="What has vote matrices of its own.")


def _as_maps(layers: list[StackedLayer]) -> list[dict[str, Any]]:
    return [layer.model_dump(exclude_unset=True) for layer in layers]


StackedLayers = Annotated[list[StackedLayer], pydantic.Field(min_length=1), pydantic.AfterValidator(_as_maps)]


@register_layer("inverted_attention_stack")
class InvertedAttentionStack(CapsuleLayer):
    """A stack of inverted dot-product attention (Tsai et al. 2020), whose layers are routed concurrently, as published.

    The first pass goes from below, with coefficients of 1/J: each layer routes the capsules of the one before. Then all
    layers at once make `iterations - 1` passes, each from children and parents of the pass before. One layer alone is
    `inverted_attention_capsules`, which has the formulas.

    Args:
        layers: A list of maps, the arguments of each layer: `capsules` and `dim`; `kernel_size`, if not given as large
            as the map; `strides`, `padding` and `matrices`.
        iterations: Number of passes; 0 and 1 are no routing, all coefficients are 1/J.
        concurrent: Whether the layers are routed at once. If not, each makes all its passes on finished children.
        pose: `vector`: a vote is `W u`; `matrix`: the product of the matrices `U W`.
        routing: If given, a control in place of the routing: `uniform`: all coefficients are 1/J; `random`: they are
            drawn once, the same in every model.
        kernel_initializer: Keras initializer of all matrices, by name or as {class_name, config}. If not given, that of
            `inverted_attention_capsules`.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `scale` and `offset`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)`, or a list of them `(B, I, D)`, or a sequence `(B, T, N, D)`, which has
            one row: `kernel_size`, `strides` and `padding` are one number each.
        mask: True where a child is real, `(B, I)` of a list, `(B, T)` of a sequence; the others count for nothing.

    Returns:
        The last layer's parents `(B, P, Q, J, E)`, or `(B, J, E)` where its window is the map.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not capsules, or a window is larger than its map.

    Examples:
        >>> import torch
        >>> convolution = {"capsules": 32, "dim": 16, "kernel_size": 3}
        >>> stack = InvertedAttentionStack([{**convolution, "strides": 2}, convolution, {"capsules": 10, "dim": 16}])
        >>> stack(torch.randn(2, 16, 16, 32, 16)).shape
        torch.Size([2, 10, 16])
    """

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = InvertedAttentionCapsules.regularizable

    def __init__(
        self,
        layers: StackedLayers,
        *,
        iterations: pydantic.NonNegativeInt = 2,
        concurrent: bool = True,
        pose: Literal["vector", "matrix"] = "matrix",
        routing: Control | None = None,
        kernel_initializer: InitializerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.iterations = iterations
        self.concurrent = concurrent
        self.routing = routing
        kinds = [f"{weight}_{kind}" for weight in self.regularizable for kind in ("regularizer", "constraint")]
        self.stacked = [
            InvertedAttentionCapsules(
                **arguments,  # type: ignore[arg-type]
                pose=pose,
                routing=routing,
                kernel_initializer=kernel_initializer,
                name=f"layer_{number}",
                dtype=self.dtype_policy,
                **{name: getattr(self, name) for name in kinds},
            )
            for number, arguments in enumerate(layers)
        ]

    def build(self, input_shape: Shape) -> None:
        """Make the weights of all layers."""
        for layer, shape in zip(self.stacked, self._shapes(input_shape)[:-1], strict=True):
            layer.build(shape)

    def _shapes(self, input_shape: Shape) -> list[Shape]:
        """Return the shape of the children of each layer, and that of the output."""
        shapes = [tuple(input_shape)]
        for layer in self.stacked:
            try:
                shapes.append(layer.compute_output_shape(shapes[-1]))
            except ShapeError as error:
                raise ShapeError(f"{self.name}: {error}") from None
        return shapes

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives the last layer's `(B, P, Q, J, E)`, or `(B, J, E)` where its window is the map."""
        return self._shapes(input_shape)[-1]

    def votes_shapes(self, capsules_shape: Shape) -> list[Shape]:
        """Return the shapes of all votes of each layer, never made all at once, unless they are few."""
        shapes = self._shapes(capsules_shape)[:-1]
        return [layer.votes_shape(shape) for layer, shape in zip(self.stacked, shapes, strict=True)]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Parents are all there."""

    def call(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        layers = []
        for layer, shape in zip(self.stacked, self._shapes(inputs.shape)[:-1], strict=True):
            children: tuple[Any, ...] = (1, *[1] * (5 - len(shape)), *shape[1:])
            layers.append(layer.attention(inputs.new_empty(()).expand(children)))  # its shape alone matters
        (capsules,) = self.stacked[0].as_maps(without_padding(self, inputs, mask))
        iterations = max(1, self.iterations)
        parents = inverted_attention_routing(capsules, layers, iterations=iterations, concurrent=self.concurrent)
        return self.stacked[-1].lay_out(parents)

    def routing_record(self) -> list[WindowRecord]:
        """Return the weights and options of each layer's routing."""
        options = {"iterations": max(1, self.iterations)}
        return [replace(layer.routing_record(), options=options) for layer in self.stacked]
