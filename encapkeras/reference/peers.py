"""Published capsule networks in plain torch, the usual way: NCHW, all votes as one tensor, autograd through everything.

The baseline of `encapkeras bench peers`. Each network takes the function that routes: one of this module, with products
by broadcasting, as textbooks and most public code have it, or that of `routing_votes` and `window_routing_votes`.

Shape suffixes: B batch, I input capsules, D their dimension, J output capsules, E their dimension, R rows and C columns
of a pose (E = R * C), X columns of an input's pose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from encapkeras.reference.encapnet import squash
from encapkeras.reference.routing_votes import dynamic_routing
from encapkeras.reference.window_routing_votes import window_em_routing

Dynamic = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From capsules `(B, I, D)` and matrices `(I, J, E, D)` to capsules `(B, J, E)`."""
Em = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""From poses `(B, I, R, X)`, activations `(B, I)`, matrices `(I, J, X, C)` and both betas to poses and activations."""
LAMBDA, FLOOR = 0.01, 1e-9  # of EM routing as Gritzman 2019 has it


def dynamic_by_broadcasting(capsule_BID: torch.Tensor, weight_IJED: torch.Tensor, iterations: int = 3) -> torch.Tensor:
    """Dynamic routing (Sabour et al. 2017, procedure 1) over the outputs, each sum a product and a `sum`."""
    vote_BIJE = (weight_IJED @ capsule_BID[:, :, None, :, None]).squeeze(-1)
    logit_BIJ = torch.zeros(vote_BIJE.shape[:3], dtype=vote_BIJE.dtype, device=vote_BIJE.device)
    for iteration in range(iterations):
        coupling_BIJ = logit_BIJ.softmax(2)
        output_BJE = squash((coupling_BIJ.unsqueeze(3) * vote_BIJE).sum(1))
        if iteration < iterations - 1:
            logit_BIJ = logit_BIJ + (vote_BIJE * output_BJE.unsqueeze(1)).sum(3)
    return output_BJE


def dynamic_by_products(capsule_BID: torch.Tensor, weight_IJED: torch.Tensor, iterations: int = 3) -> torch.Tensor:
    """The same with the votes as one einsum, and matrix products along them."""
    return dynamic_routing(capsule_BID.unsqueeze(1), weight_IJED, iterations=iterations, softmax_over="outputs")


def em_by_broadcasting(
    pose_BIRX: torch.Tensor,
    active_BI: torch.Tensor,
    weight_IJXC: torch.Tensor,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    iterations: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EM routing (Hinton et al. 2018, procedure 1; costs as in Gritzman 2019), each sum a product and a `sum`."""
    vote_BIJE = (pose_BIRX.unsqueeze(2) @ weight_IJXC).flatten(3)
    inputs, outputs, dim = vote_BIJE.shape[1:]
    share_BIJ = torch.full_like(vote_BIJE[..., 0], 1 / outputs)
    for iteration in range(iterations):
        used_BIJ = share_BIJ * active_BI.unsqueeze(2)
        amount_BJ = used_BIJ.sum(1)
        part_BIJ1 = (used_BIJ / (amount_BJ.unsqueeze(1) + FLOOR)).unsqueeze(3)
        mean_BJE = (part_BIJ1 * vote_BIJE).sum(1)
        square_BIJE = (vote_BIJE - mean_BJE.unsqueeze(1)) ** 2
        variance_BJE = (part_BIJ1 * square_BIJE).sum(1) + FLOOR
        log_deviation_BJ = variance_BJE.log().sum(2) / 2
        cost_BJ = 100 * outputs / inputs * amount_BJ * (dim * beta_v_J + log_deviation_BJ)
        out_BJ = torch.sigmoid(LAMBDA * (1 - 0.95 ** (iteration + 1)) * (beta_a_J - cost_BJ))
        if iteration < iterations - 1:
            distance_BIJ = (square_BIJE / (2 * variance_BJE.unsqueeze(1))).sum(3)
            prior_BJ = (out_BJ + FLOOR).log() - log_deviation_BJ
            share_BIJ = (prior_BJ.unsqueeze(1) - distance_BIJ).softmax(2)
    return mean_BJE, out_BJ


def em_by_products(
    pose_BIRX: torch.Tensor,
    active_BI: torch.Tensor,
    weight_IJXC: torch.Tensor,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    options: Any,
    iterations: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the votes as one batched matrix product, and sums along them; with `EmOptions`."""
    mean_B11JE, out_B11J = window_em_routing(
        pose_BIRX.flatten(2)[:, None, None],
        active_BI[:, None, None],
        weight_IJXC[None, None],
        beta_v_J,
        beta_a_J,
        iterations=iterations,
        competition="position",
        options=options,
    )
    return mean_B11JE[:, 0, 0], out_B11J[:, 0, 0]


class CapsNet(nn.Module):
    """CapsNet of Sabour et al. 2017 with its decoder, on images of 28x28 with one channel."""

    def __init__(self, route: Dynamic, filters: int = 256, types: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.route = route
        self.types = types
        self.conv = nn.Conv2d(1, filters, 9)
        self.primary = nn.Conv2d(filters, types * 8, 9, 2)
        self.weight = nn.Parameter(torch.randn(types * 36, classes, 16, 8) / 12**0.5)
        sizes = (classes * 16, 512, 1024)
        hidden = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        self.decoder = nn.Sequential(*hidden, nn.Linear(1024, 784), nn.Sigmoid())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, 1, 28, 28)` to the classes' capsules `(B, J, 16)`."""
        channels = self.primary(torch.relu(self.conv(image)))
        capsules = channels.view(len(image), self.types, 8, -1).transpose(2, 3).reshape(len(image), -1, 8)
        return self.route(squash(capsules), self.weight)

    def loss(self, image: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Margin loss and 0.0005 of the reconstruction loss."""
        capsules = self(image)
        lengths = capsules.norm(dim=-1)
        present = targets * (0.9 - lengths).clamp_min(0) ** 2
        absent = 0.5 * (1 - targets) * (lengths - 0.1).clamp_min(0) ** 2
        made = self.decoder((capsules * targets.unsqueeze(2)).flatten(1))
        error = ((made - image.flatten(1)) ** 2).sum(1)
        loss: torch.Tensor = (present + absent).sum(1).mean() + 0.0005 * error.mean()
        return loss


class EmNet(nn.Module):
    """A convolution, 32 types of 4x4 poses with activations on a map of 4x4, and EM routing to the classes."""

    def __init__(self, route: Em, filters: int = 64, types: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.route = route
        self.types = types
        self.conv = nn.Conv2d(1, filters, 5, 2)
        self.poses = nn.Conv2d(filters, types * 16, 5, 2)
        self.activations = nn.Conv2d(filters, types, 5, 2)
        self.weight = nn.Parameter(torch.randn(16 * types, classes, 4, 4))
        self.beta_v = nn.Parameter(torch.zeros(classes))
        self.beta_a = nn.Parameter(torch.zeros(classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(B, 1, 28, 28)` to the classes' activations `(B, J)`."""
        features = torch.relu(self.conv(image))
        pose = self.poses(features).unflatten(1, (self.types, 16)).permute(0, 3, 4, 1, 2).reshape(len(image), -1, 4, 4)
        active = torch.sigmoid(self.activations(features)).permute(0, 2, 3, 1).flatten(1)
        return self.route(pose, active, self.weight, self.beta_v, self.beta_a)[1]

    def loss(self, image: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Spread loss with a margin of 0.9."""
        scores = self(image)
        present = (targets * scores).sum(1, keepdim=True)
        loss: torch.Tensor = ((1 - targets) * F.relu(0.9 - (present - scores)) ** 2).sum(1).mean()
        return loss
