"""The default EncapNet as plain torch modules, the usual way: NCHW, eager, squash along a permuted axis.

The baseline of `encapkeras bench step`, with the parameters, and so the mathematics, of our `capsule_stage` network.
"""

from __future__ import annotations

import torch
from torch import nn


def squash(capsules: torch.Tensor) -> torch.Tensor:
    """`|s|^2 / (1 + |s|^2) * s / |s|` along the last axis, literally (Sabour et al. 2017, equation 1)."""
    square = (capsules**2).sum(-1, keepdim=True)
    return square / (1 + square) * capsules / (square + 1e-12).sqrt()


class Squash(nn.Module):
    """Squash of an image's channels `(B, N * D, H, W)`: permuted so that the components come last, and back."""

    def __init__(self, types: int) -> None:
        super().__init__()
        self.types = types

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, N * D, H, W)` in and out."""
        batch, channels, height, width = image.shape
        capsules = image.view(batch, self.types, channels // self.types, height, width).permute(0, 1, 3, 4, 2)
        squashed: torch.Tensor = squash(capsules).permute(0, 1, 4, 2, 3).reshape(batch, channels, height, width)
        return squashed


class Stage(nn.Module):
    """A stage of master kind with skip `last`: a 3x3 step with projected skip, then 1x1 steps."""

    def __init__(self, inputs: int, channels: int, types: int, strides: int, sub_layers: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(inputs, channels, 3, strides, 1, groups=types)
        self.projection = nn.Conv2d(inputs, channels, 3, strides, 1)
        self.main_norm = nn.BatchNorm2d(channels)
        self.subs = nn.ModuleList(nn.Conv2d(channels, channels, 1, groups=types) for _ in range(sub_layers))
        self.sub_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(sub_layers))
        self.squash = Squash(types)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, C', H', W')`."""
        main = self.main(image) + self.projection(image)
        main = self.squash(torch.relu(self.main_norm(main)))
        out: torch.Tensor = main
        for number, (convolution, norm) in enumerate(zip(self.subs, self.sub_norms, strict=True), start=1):
            out = convolution(out)
            if number == len(self.subs):
                out = out + main
            out = self.squash(torch.relu(norm(out)))
        return out


class CapsuleDense(nn.Module):
    """`out[j, d] = sum_i x[i, d] * W[d, i, j]`, then squash."""

    def __init__(self, capsules: int, outputs: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, capsules, outputs).uniform_(-(capsules**-0.5), capsules**-0.5))
        self.dim = dim

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, N * D, H, W)` to `(B, J, D)`."""
        capsules = image.view(len(image), -1, self.dim, image.shape[2] * image.shape[3])
        capsules = capsules.permute(2, 0, 1, 3).reshape(self.dim, len(image), -1)
        return squash(torch.bmm(capsules, self.weight).permute(1, 2, 0))


class EncapNet(nn.Module):
    """Stem, four stages with D = 2, 4, 8, 16 and strides 1, 2, 2, 2, class capsules: lengths `(B, classes)`."""

    def __init__(
        self, image_channels: int = 3, image_size: int = 32, classes: int = 10, types: int = 32, sub_layers: int = 2
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(image_channels, types, 3, 1, 1), nn.BatchNorm2d(types), nn.ReLU())
        dims, strides = (1, 2, 4, 8, 16), (1, 2, 2, 2)
        self.stages = nn.Sequential(
            *(
                Stage(types * before, types * after, types, stride, sub_layers)
                for before, after, stride in zip(dims, dims[1:], strides, strict=False)
            )
        )
        self.dense = CapsuleDense(types * (image_size // 8) ** 2, classes, 16)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, channels, H, W)` to `(B, classes)`."""
        capsules: torch.Tensor = self.dense(self.stages(self.stem(image)))
        lengths: torch.Tensor = capsules.norm(dim=-1)
        return lengths
