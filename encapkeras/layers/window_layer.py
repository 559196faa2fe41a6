"""The common part of layers that route in windows: shapes, vote matrices, fixed coefficients, ports.

Shape suffixes: B batch, H W map of the children, N child types, D their dimension, P Q map of the parents, J parent
types, E their dimension.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import Competition
from encapkeras.functional.routing.windows import Windows
from encapkeras.layers.initializers import random_shares, window_matrices
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.kernel_sizes import Padding, Strides, WindowSize, as_sides, sides_of
from encapkeras.layers.registry import CapsuleLayer, Shape, check_own_weights, warn_of_other_axes
from encapkeras.layers.routing_inputs import Control, capsules_and_activations
from encapkeras.layers.sequence_maps import ConvolutionSides, steps_mask
from encapkeras.layers.sequence_masks import without_padding

Matrices = Literal["offset", "type", "all", "position"]


class WindowShape(NamedTuple):
    """The sizes of a layer's children, windows and parents; a list of children is a map of one position."""

    batch: int | None
    children: tuple[int | None, int | None]
    types: int
    dim: int
    kernel: tuple[int, int]
    parents: tuple[int | None, int | None]


@dataclass(frozen=True)
class WindowRecord:
    """What an analysis needs of a layer: its routing's name and arguments, besides children and their activations.

    Attributes:
        routing: Its name in analyses.
        weights: The other positional arguments.
        options: The arguments by name.
        kernel: Height and width of the window.
        strides: Step of the window, in rows and columns.
        padding: Rows and columns of nothing.
        outputs: Number J of parent types; None for as many as children.
        dim: Their dimension E.
        competition: Which parents compete for a child.
    """

    routing: str
    weights: Sequence[Any]
    options: Mapping[str, Any]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    outputs: int | None
    dim: int
    competition: Competition

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors among the weights."""
        weights = [weight for weight in self.weights if weight is not None]
        parts = [
            part
            for weight in weights
            for part in (weight if isinstance(weight, tuple) else (weight, *vars(weight).values()))
        ]
        return [part for part in parts if isinstance(part, torch.Tensor)]


def list_record(
    routing: str, weights: Sequence[Any], outputs: int | None, dim: int, options: Mapping[str, Any]
) -> WindowRecord:
    """Return the record of a layer that routes a list, which is a map of one position."""
    return WindowRecord(routing, weights, options, (1, 1), (1, 1), (0, 0), outputs, dim, "position")


class WindowLayer(CapsuleLayer):
    """Base class of layers whose parents route the children in a window that moves over the map, as a kernel does.

    A method derives from it, gives the deviation or bound of its matrices in `default_initializer`, and hands
    `window_options()` to its function.

    Class attributes, besides those of `CapsuleLayer`:

    - `takes_activations`: whether the children have activations, the second of two inputs.
    """

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel",)
    takes_activations: ClassVar[bool] = False
    kernel: Any
    coefficients: Any

    def __init__(
        self,
        capsules: int,
        dim: int | None,
        *,
        kernel_size: WindowSize,
        strides: Strides,
        padding: Padding,
        pose: Literal["vector", "matrix"],
        matrices: Matrices,
        routing: Control | None,
        kernel_initializer: InitializerConfig | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.dim = dim
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.pose = pose
        self.matrices = matrices
        self.routing = routing
        self.kernel_initializer = kernel_initializer
        self.supports_masking = True
        self.flat = False
        if kernel_size is None and (as_sides(strides), as_sides(padding)) != ((1, 1), (0, 0)):
            raise ArgumentError(
                f"{self.name}: kernel_size null is a window as large as the map, which has no strides and no padding; "
                f"received strides {strides} and padding {padding}"
            )

    def read_shape(self, input_shape: Any) -> WindowShape:
        """Return the sizes that follow from the inputs' shapes; raise `ShapeError` if they do not fit."""
        return self._read(capsules_and_activations(self, input_shape, takes=1 + self.takes_activations))

    def _read(self, shape: Shape) -> WindowShape:
        self.flat, listed = len(shape) == 4, len(shape) == 3  # a sequence is a map of one row
        if len(shape) in (3, 4):
            shape = (shape[0], *[1] * (5 - len(shape)), *shape[1:])
        if len(shape) != 5 or None in shape[3:]:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim), a sequence of them (batch, steps, "
                f"types, dim), or a list (batch, capsules, dim); received shape {shape}"
            )
        height, width, types, dim = shape[1:]
        whole = self.kernel_size is None
        if None in (height, width) and (whole or self.matrices == "position"):
            why = "kernel_size null is a window as large as the map" if whole else "each position has own matrices"
            raise ShapeError(f"{self.name}: {why}, whose size must be known; received shape {shape}")
        kernel = (int(height or 0), int(width or 0))
        if self.kernel_size is not None:
            kernel = sides_of(self.name, "kernel_size", self.kernel_size, flat=self.flat, across=1)
        sides = self.sides
        parents = _parents((height, width), kernel, sides["strides"], sides["padding"], self.name)
        read = WindowShape(shape[0], (height, width), int(types or 0), int(dim or 0), kernel, parents)
        self._check_poses(read)
        if self.built and whole and kernel != self.window:
            built_for, received = (" x ".join(map(str, sides)) for sides in (self.window, kernel))
            raise ShapeError(
                f"{self.name}: kernel_size null is a window as large as the map, and was built for {built_for}; "
                f"received a map of {received}. Resize or cut all inputs to one size"
            )
        if self.built and listed and (self.matrices != "all" or self.routing == "random"):
            remedy = "" if self.routing == "random" else ", or set 'matrices' to 'all'"
            check_own_weights(self, read.types, self.child_types, remedy)
        return read

    def _check_poses(self, shape: WindowShape) -> None:
        rows = math.isqrt(shape.dim)
        if self.pose == "matrix" and self.dim and (rows**2 != shape.dim or self.dim % rows):
            fault = f"dim={self.dim}" if rows**2 == shape.dim else f"capsules of dimension {shape.dim}"
            raise ShapeError(
                f"{self.name}: pose matrix takes square matrices, of dimension 4, 9, 16, 25 ..., and gives matrices "
                f"with as many rows; received {fault}"
            )

    def add_kernel(self, input_shape: Any) -> WindowShape:
        """Make the vote matrices, `kernel`, and fixed coefficients where `routing` is `random`; return the sizes."""
        shape = self.read_shape(input_shape)
        self.window, self.child_types, self.child_dim = shape.kernel, shape.types, shape.dim
        _warn_of_gaps(self, shape)
        if not isinstance(input_shape[0], list | tuple) and not self.flat:
            warn_of_other_axes(self, input_shape)
        self.kernel = self.coefficients = None
        if self.dim:
            sizes, inputs = self._kernel_sizes(shape)
            config = self.kernel_initializer
            initializer = config if config is not None else self.default_initializer(shape)
            make = window_matrices(initializer, "kernel", self.pose)
            self.kernel = self.add_weight(sizes, make, name="kernel", **self.regularizing("kernel", inputs))
        if self.routing == "random":
            sizes = (*shape.kernel, shape.types, self.capsules)
            self.coefficients = self.add_weight(sizes, random_shares, name="coefficients", trainable=False)
        return shape

    def _kernel_sizes(self, shape: WindowShape) -> tuple[tuple[int, ...], list[int]]:
        """Return the shape of the vote matrices, and the axes that votes sum over."""
        inner, outer = self.matrix_sides(shape)
        matrix = (outer, inner) if self.pose == "vector" else (inner, outer)
        sizes = (*self.shared_sizes(shape), *matrix)
        first = len(sizes) - 6
        return sizes, [first, first + 1, first + 2, len(sizes) - (1 if self.pose == "vector" else 2)]

    def shared_sizes(self, shape: WindowShape) -> tuple[int, ...]:
        """Return the first sizes of a weight for each pair of a child and a parent type, by what has its own."""
        if self.matrices in ("type", "all"):
            return (1, 1, shape.types if self.matrices == "type" else 1, self.capsules)
        places = [int(size or 0) for size in shape.parents] if self.matrices == "position" else []
        return (*places, *shape.kernel, shape.types, self.capsules)

    def of_types(self, weight: torch.Tensor, types: int) -> torch.Tensor:
        """Return a weight of `shared_sizes`, that of all children as one of each type."""
        return weight.expand(-1, -1, types, *[-1] * (weight.dim() - 3)) if self.matrices == "all" else weight

    def matrix_sides(self, shape: WindowShape) -> tuple[int, int]:
        """Return how many numbers a product with a vote matrix takes, and gives: D and E, or columns of the poses."""
        if self.pose == "vector":
            return shape.dim, self.dim or 0
        rows = math.isqrt(shape.dim)
        return rows, (self.dim or 0) // rows

    def default_initializer(self, shape: WindowShape) -> keras.initializers.Initializer:
        """Return the published initializer of the vote matrices."""
        raise NotImplementedError(f"class {type(self).__name__} has no default_initializer")

    @property
    def sides(self) -> dict[str, Any]:
        """Strides, padding and pose, as functions take them."""
        strides = sides_of(self.name, "strides", self.strides, flat=self.flat, across=1)
        padding = sides_of(self.name, "padding", self.padding, flat=self.flat, across=0)
        return {"strides": strides, "padding": padding, "pose": self.pose}

    def window_options(self, capsules: torch.Tensor) -> dict[str, Any]:
        """Return what all functions take: strides, padding, pose, and the control's coefficients for a map."""
        options = self.sides
        if self.matrices in ("type", "all"):
            options["window"] = self.window
        if self.coefficients is not None:
            options["coefficients"] = self.coefficients.value
        elif self.routing == "uniform":
            shape = (*self.window, capsules.shape[3], self.capsules)
            options["coefficients"] = capsules.new_full(shape, 1 / self.capsules)
        return options

    def routing_record(self) -> WindowRecord:
        """Return the routing's weights and options, by which analyses make its coefficients again."""
        raise NotImplementedError(f"class {type(self).__name__} has no routing_record, so it cannot be analysed")

    def window_record(self, routing: str, weights: Sequence[Any], **options: Any) -> WindowRecord:
        """Return a record; its weights and options are those of the function that makes all votes."""
        sizes = (self.window, self.sides["strides"], self.sides["padding"], self.capsules, self.dim or 0)
        return WindowRecord(routing, weights, options, *sizes, options.get("competition", "position"))

    def matrices_by_offset(self) -> torch.Tensor | None:
        """Return the vote matrices, of each offset of the window or each position, if there are votes; for a record."""
        return None if self.kernel is None else self.by_offset(self.kernel.value)

    def by_offset(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight of `shared_sizes` as one for each offset of the window or each position, without gradient."""
        weight = self.of_types(weight.detach(), self.child_types)
        return weight.expand(*self.window, *weight.shape[2:]) if self.matrices in ("type", "all") else weight

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which windows of a sequence have a real step at their center; None where all parents are there."""
        capsules = inputs[0] if isinstance(inputs, list | tuple) else inputs
        masks = previous_mask if isinstance(previous_mask, list | tuple) else [previous_mask]
        if len(capsules.shape) != 4 or self.kernel_size is None or masks[0] is None:
            return None
        (steps,) = self.read_shape(keras.tree.map_structure(lambda each: tuple(each.shape), inputs)).parents[1:]
        sides = ConvolutionSides(self.window, self.sides["strides"], self.sides["padding"])
        made = steps_mask(masks[0], steps or 0, sides)
        return made if len(self.ports) == 1 else [made] * len(self.ports)

    def as_maps(self, inputs: torch.Tensor | list[torch.Tensor], mask: Any = None) -> list[torch.Tensor]:
        """Return the capsules, and their activations if there are any, as maps; what is not real by the mask is 0."""
        inputs = without_padding(self, inputs, mask)
        capsules, *activations = inputs if isinstance(inputs, list | tuple) else [inputs]
        self._read(tuple(capsules.shape))
        if capsules.dim() == 3:
            return [tensor[:, None, None] for tensor in (capsules, *activations)]
        if capsules.dim() == 4:
            return [tensor[:, None] for tensor in (capsules, *activations)]
        return [capsules, *activations]

    def lay_out(self, parents: torch.Tensor) -> torch.Tensor:
        """Return parents `(B, P, Q, J, ...)`, `(B, Q, J, ...)` of a sequence, `(B, J, ...)` of one window."""
        if self.kernel_size is None:
            return parents[:, 0, 0]
        return parents[:, 0] if self.flat else parents

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """`(B, H, W, N, D)` gives `(B, P, Q, J, E)`, or `(B, J, E)` where the window is the map."""
        shape = self.read_shape(input_shape)
        parents = () if self.kernel_size is None else shape.parents[self.flat :]
        return (shape.batch, *parents, self.capsules, *([self.dim] if self.dim else []))

    def compute_output_spec(
        self, inputs: Any, return_ports: bool = False, training: bool | None = None, mask: Any = None
    ) -> Any:
        """Return symbolic outputs: one, or a map of all ports."""
        shape = self.compute_output_shape(keras.tree.map_structure(lambda tensor: tensor.shape, inputs))
        out = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_ports:
            return out
        activations = keras.KerasTensor(self.activations_shape(shape), dtype=self.compute_dtype)
        return {port: out if port == "out" else activations for port in self.ports}

    def activations_shape(self, output_shape: Shape) -> Shape:
        """Return the shape of the parents' activations."""
        return output_shape[:-1] if self.dim else output_shape

    def votes_shape(self, capsules_shape: Shape) -> Shape:
        """Return the shape of all votes, never made all at once, unless few: `(B, P, Q, K_h, K_w, N, J, E)`."""
        shape = self._read(capsules_shape)
        return (shape.batch, *shape.parents, *shape.kernel, shape.types, self.capsules, self.dim or 0)


def _parents(
    children: tuple[int | None, int | None],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int],
    name: str,
) -> tuple[int | None, int | None]:
    windows = Windows(kernel, strides, padding)
    known = [size if size is not None else side for size, side in zip(children, kernel, strict=True)]
    try:
        sizes = windows.output_size(*known)
    except ShapeError as error:
        raise ShapeError(f"{name}: {error}") from None
    rows, columns = (None if size is None else found for size, found in zip(children, sizes, strict=True))
    return rows, columns


def _warn_of_gaps(layer: WindowLayer, shape: WindowShape) -> None:
    if any(stride > side for stride, side in zip(layer.sides["strides"], shape.kernel, strict=True)):
        warnings.warn(
            f"{layer.name}: strides {layer.strides} are larger than the window, {shape.kernel[0]} x {shape.kernel[1]}, "
            "so capsules between the windows are not used",
            stacklevel=2,
        )
