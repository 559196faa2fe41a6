"""What comes before the optimal transport between two tensors of a network: the generator and the critic.

Shape suffixes: B batch, H height, W width, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError
from encapkeras.functional.batch_norm import NormWeights, batch_norm
from encapkeras.functional.convolution import conv_bn_relu
from encapkeras.functional.squash import squash


class NormedConvolution(NamedTuple):
    """Weights of a 3x3 convolution and the batch norm after it.

    Attributes:
        kernel: `(out, in, 3, 3)`; of a transposed convolution `(in, out / groups, 3, 3)`, as torch has it.
        bias: `(out,)`.
        norm: Batch norm, each `(out,)`.
    """

    kernel: torch.Tensor
    bias: torch.Tensor
    norm: NormWeights


class CriticWeights(NamedTuple):
    """Weights of a critic.

    Attributes:
        first: Convolution from C to C / 4 channels.
        second: Convolution from C / 4 channels to one.
    """

    first: NormedConvolution
    second: NormedConvolution


def transport_generator(
    latent_BHWC: torch.Tensor,
    weights: NormedConvolution,
    size: tuple[int, int],
    *,
    types: int | None = None,
    training: bool,
) -> torch.Tensor:
    """Map the latent tensor to the target's shape: `relu(batch_norm(transposed convolution))`.

    Kernels are 3x3, padding is 1; along each axis the stride is 1 where the sides are equal, and 2 where the target's
    is twice as large, or twice less 1.

    Args:
        latent_BHWC: Latent map z, `(B, H, W, C)`; capsules with their types and components flattened.
        weights: Kernel `(C, C' / groups, 3, 3)`, bias and batch norm of C' channels.
        size: Height and width of the target.
        types: Of an encapsulated generator: N groups, and squash of every capsule of C' / N numbers at the end.
        training: Whether the batch norm uses and records the batch's statistics.

    Returns:
        The generated map x, `(B, *size, C')`.

    Raises:
        ShapeError: The generator cannot make a map of that size.

    Examples:
        >>> norm = NormWeights(torch.ones(6), torch.zeros(6), torch.zeros(6), torch.ones(6))
        >>> weights = NormedConvolution(torch.rand(8, 6, 3, 3), torch.zeros(6), norm)
        >>> transport_generator(torch.rand(2, 4, 4, 8), weights, (7, 8), training=True).shape
        torch.Size([2, 7, 8, 6])
    """
    sides = latent_BHWC.shape[1:3]
    strides = generator_strides(sides, size)
    made = [(side - 1) * stride + 1 for side, stride in zip(sides, strides, strict=True)]
    output_padding = [wanted - without for wanted, without in zip(size, made, strict=True)]
    latent_BCHW = latent_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    map_BCHW = F.conv_transpose2d(latent_BCHW, weights.kernel, None, strides, 1, output_padding, types or 1)
    # Batch norm and squash are several times faster along H * W than across channels_last.
    map_BCHW = batch_norm(map_BCHW.contiguous(), weights.norm, bias=weights.bias, training=training)
    map_BCHW = F.relu(map_BCHW, inplace=True)
    if types is not None:
        map_BCHW = squash(map_BCHW.unflatten(1, (types, -1)).flatten(3), dim=2).view(map_BCHW.shape)
    return map_BCHW.permute(0, 2, 3, 1)


def generator_strides(latent: Sequence[int], target: Sequence[int]) -> list[int]:
    """Return the generator's stride along each axis; raise a ShapeError if there is none."""
    pairs = list(zip(latent, target, strict=True))
    if not all(wanted in (side, 2 * side - 1, 2 * side) for side, wanted in pairs):
        raise ShapeError(
            f"a generator keeps a side of the latent map, doubles it, or doubles it less 1: {latent[0]} x {latent[1]} "
            f"does not become the target's {target[0]} x {target[1]}"
        )
    return [1 if wanted == side else 2 for side, wanted in pairs]


def transport_critic(image_BHWC: torch.Tensor, weights: CriticWeights, *, training: bool) -> torch.Tensor:
    """Return features for the cost of transport: two 3x3 convolutions of stride 2, each with batch norm and ReLU.

    The first has a quarter of the channels, the second one channel; both have padding 1. Call it once for each of the
    two tensors, so that each is normalized with its own statistics.

    Args:
        image_BHWC: Map `(B, H, W, C)`.
        weights: See `CriticWeights`.
        training: Whether the batch norms use and record the batch's statistics.

    Returns:
        Features `(B, F)`, none below 0, with `F = ceil(H / 4) * ceil(W / 4)`.

    Examples:
        >>> def weights(inputs, filters):
        ...     norm = NormWeights(*(torch.ones(filters) for _ in range(4)))
        ...     return NormedConvolution(torch.rand(filters, inputs, 3, 3), torch.zeros(filters), norm)
        >>> critic = CriticWeights(weights(8, 2), weights(2, 1))
        >>> transport_critic(torch.rand(5, 8, 8, 8), critic, training=True).shape
        torch.Size([5, 4])
    """
    for convolution in weights:
        image_BHWC = conv_bn_relu(image_BHWC, *convolution, strides=2, padding=1, training=training)
    return image_BHWC.flatten(1)


def reverse_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself; its gradient is multiplied by -1 (Ganin and Lempitsky 2015, gradient reversal).

    Args:
        tensor: Any tensor, for example a weight of a critic that a step is to move against the loss.

    Examples:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> (3 * reverse_gradient(weight)).sum().backward()
        >>> weight.grad
        tensor([-3., -3.])
    """
    return _ReverseGradient.apply(tensor)  # type: ignore[no-any-return]


class _ReverseGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]
