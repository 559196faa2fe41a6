"""The common part of routing layers: vote matrices, order of the input capsules, layout of the outputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import list_capsules
from encapkeras.functional.routing.couplings import RoutingRecord
from encapkeras.layers.initializers import get_initializer, in_torch_layout, random_shares
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, check_own_weights, warn_of_other_axes
from encapkeras.layers.routing_inputs import Control
from encapkeras.layers.sequence_masks import capsule_mask


class VotingLayer(CapsuleLayer):
    """Base class of layers in which input capsules vote for output capsules: `vote_ij = W[n, j] u_i + bias[n, j]`."""

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "bias")

    def __init__(
        self,
        capsules: int,
        dim: int,
        *,
        iterations: int,
        share_positions: bool,
        use_bias: bool,
        map_types: int | None,
        kernel_initializer: InitializerConfig | None,
        bias_initializer: InitializerConfig,
        routing: Control | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.dim = dim
        self.iterations = iterations
        self.share_positions = share_positions
        self.use_bias = use_bias
        self.map_types = map_types
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.routing = routing
        self.supports_masking = True
        self.map_shape = None if map_types is None else (*[_side_of_map(self.name, capsules, map_types)] * 2, map_types)

    def add_vote_weights(self, capsules_shape: Shape) -> None:
        """Make `kernel` `(N, J, E, D)` and `bias` `(N, J, E)`; N counts the input capsules if none share."""
        warn_of_other_axes(self, capsules_shape)
        _warn_of_images(self, capsules_shape)
        height, width, types, dim = self.check_capsules(capsules_shape)
        matrices = types if self.share_positions else (height or 0) * (width or 0) * types
        shape = (matrices, self.capsules, self.dim, dim)
        initializer = self._kernel_initializer()
        self.kernel = self.add_weight(shape, initializer, name="kernel", **self.regularizing("kernel", [3]))
        self.bias = None
        if self.use_bias:
            initializer = get_initializer(self.bias_initializer, "bias")
            self.bias = self.add_weight(shape[:3], initializer, name="bias", **self.regularizing("bias", []))
        self.coefficients = None
        if self.routing == "random":
            self.coefficients = self.add_weight(shape[:2], random_shares, name="coefficients", trainable=False)

    def fixed_coefficients(self) -> torch.Tensor | None:
        """Return the coefficients `(N, J)` of a control, whose sum over J is 1; None where the layer routes."""
        if self.coefficients is not None:
            fixed: torch.Tensor = self.coefficients.value
            return fixed
        if self.routing == "uniform":
            return torch.full_like(self.kernel.value[:, :, 0, 0], 1 / self.capsules)
        return None

    def _kernel_initializer(self) -> Callable[..., Any]:
        """If not given: Xavier-normal by the fans of one matrix, so that a vote is about as long as its capsule."""
        config = self.kernel_initializer

        def make(shape: tuple[int, ...], dtype: Any = None) -> Any:
            matrices, outputs, dim, input_dim = shape
            if config is None:
                stddev = math.sqrt(2 / (input_dim + dim))
                return keras.initializers.RandomNormal(stddev=stddev)(shape, dtype=dtype)
            # As the paper's code has it: a convolution of 1x1 with a group for each type.
            convolution = in_torch_layout(config, "kernel")((matrices * outputs * dim, input_dim, 1, 1), dtype=dtype)
            return convolution.reshape(shape)

        return make

    def check_capsules(self, shape: Shape) -> tuple[int | None, int | None, int, int]:
        """Return height, width, types and dimension of the input capsules; a sequence is a map of one column."""
        if len(shape) in (3, 4):
            shape = (*shape[:2], *[1] * (5 - len(shape)), *shape[2:])
        first_known = 3 if self.share_positions else 1  # shared matrices fit maps of any height and width
        if len(shape) != 5 or None in shape[first_known:]:
            known = "" if self.share_positions else " of known size"
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim), or a sequence (batch, steps, dim) or "
                f"(batch, steps, types, dim),{known or ' of known dimension'}; received shape {tuple(shape)}"
            )
        height, width, types, dim = shape[1:]
        if self.built and not self.share_positions:
            inputs = (height or 0) * (width or 0) * (types or 0)
            check_own_weights(self, inputs, self.kernel.shape[0], ", or set 'share_positions' to true")
        return height, width, int(types or 0), int(dim or 0)

    def votes_shape(self, capsules_shape: Shape) -> Shape:
        """Return the shape `(B, J, E, I)` of the votes of all I capsules, never made all at once, unless few."""
        height, width, types, _ = self.check_capsules(capsules_shape)
        inputs = None if height is None or width is None else height * width * types
        return (capsules_shape[0], self.capsules, self.dim, inputs)

    def by_position(
        self, capsules: torch.Tensor, activations: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return capsules `(B, P, N, D)` and activations `(B, P, N)`; P = 1, N = I if none share."""
        self.check_capsules(tuple(capsules.shape))
        if activations is not None:
            activations = self._list(activations.unsqueeze(-1)).squeeze(-1)
        return self._list(capsules), activations

    def real(self, mask: Any, capsules: torch.Tensor) -> torch.Tensor | None:
        """Return a Keras mask as `(B, P, N)`, true where a capsule is real."""
        seen = capsule_mask(self, mask, capsules)
        return None if seen is None else self._list(seen.unsqueeze(-1)).squeeze(-1)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Outputs are all there."""

    def _list(self, capsules: torch.Tensor) -> torch.Tensor:
        if capsules.dim() == 3:
            capsules = capsules.unsqueeze(2)
        if capsules.dim() == 4:
            capsules = capsules.unsqueeze(2)
        if self.share_positions:
            positions: torch.Tensor = capsules.flatten(1, 2)
            return positions
        return list_capsules(capsules).unsqueeze(1)

    def routing_record(self) -> RoutingRecord:
        """Return the routing's weights and options, by which analyses make its couplings again."""
        raise NotImplementedError(f"class {type(self).__name__} has no routing_record, so it cannot be analysed")

    def output_shape(self, batch: int | None) -> Shape:
        """Return `(B, J, E)`, or `(B, side, side, types, E)` as a map."""
        return (batch, *(self.map_shape or (self.capsules,)), self.dim)

    def lay_out(self, outputs: torch.Tensor) -> torch.Tensor:
        """View outputs `(B, J, ...)` as the map `(B, side, side, types, ...)`, with `j = (type, row, column)`."""
        if self.map_shape is None:
            return outputs
        side, _, types = self.map_shape
        by_type: torch.Tensor = outputs.unflatten(1, (types, side, side))
        return by_type.movedim(1, 3)


def _warn_of_images(layer: VotingLayer, shape: Shape) -> None:
    if len(shape) == 4 and shape[1] is not None and shape[1] == shape[2]:
        warnings.warn(
            f"{layer.name} takes a sequence of capsules (batch, steps, types, dim); this looks like an image (batch, "
            f"height, width, channels). If so, put an image_to_capsules before it. Received shape {tuple(shape)}",
            stacklevel=2,
        )


def _side_of_map(name: str, capsules: int, types: int) -> int:
    """Return the side of the square map of J capsules."""
    side = math.isqrt(capsules // types)
    if types * side**2 == capsules:
        return side
    sides = [nearest for nearest in (side, side + 1) if nearest]
    allowed = " or ".join(f"{types * nearest**2} ({nearest} x {nearest})" for nearest in sides)
    raise ArgumentError(
        f"{name}: capsules={capsules} do not fill a square map of map_types={types}: map_types * side * side; nearest: "
        f"capsules={allowed}"
    )
