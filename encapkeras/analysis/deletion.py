"""What a map over an image is worth: how fast a class loses its score when its pixels go, and wins it when they come.

Petsiuk, Das and Saenko, RISE, BMVC 2018, arXiv:1806.07421. Shape suffixes: B batch, H W pixels, C channels, P = H * W,
T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encapkeras.analysis.classify import Classifier
from encapkeras.analysis.explain import Explainer, gradient_times_input
from encapkeras.data import Batches
from encapkeras.data.splits import balanced_sample
from encapkeras.errors import ArgumentError

STEPS = 32
SIDE, DEVIATION = 11, 5.0
"""Of the Gaussian blur from which insertion begins, in pixels, as in the authors' code."""


@dataclass(frozen=True)
class Curves:
    """The scores of each image's class while pixels go or come, `(B, T + 1)`: those of the highest values first.

    Attributes:
        deletion: From the image to a black one.
        insertion: From the blurred image to the image.
    """

    deletion: Tensor
    insertion: Tensor

    def areas(self) -> dict[str, Tensor]:
        """Return the areas under the curves of each image, `(B,)`, over the share of pixels: trapezoids."""
        return {name: torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1)) for name, curve in vars(self).items()}


def deletion_and_insertion(
    classifier: Classifier, images: Tensor, maps: Tensor, labels: Tensor, random: torch.Generator, steps: int = STEPS
) -> Curves:
    """Return the curves of a batch.

    Args:
        classifier: A network.
        images: `(B, H, W, C)`, floats in [0, 1], on the CPU, as `maps`, `labels` and `random` are.
        maps: Values of the pixels, `(B, H, W)`; those of the highest go and come first, equal ones in random order.
        labels: The class of each image, `(B,)`.
        random: For the order of equal values.
        steps: In how many steps T all pixels go.

    Raises:
        ArgumentError: There is not at least one step.
    """
    if steps < 1:
        raise ArgumentError(f"steps must be at least 1; received {steps}")
    batch, height, width = maps.shape
    chance = torch.rand(batch, height * width, generator=random).argsort(1)
    order = maps.flatten(1).gather(1, chance).argsort(dim=1, descending=True, stable=True)
    rank_BHW1 = chance.gather(1, order).argsort(1).view(batch, height, width, 1)
    blurred = blur(images)
    curves: dict[str, list[Tensor]] = {"deletion": [], "insertion": []}
    for step in range(steps + 1):
        first = rank_BHW1 < round(step * height * width / steps)
        for name, without, with_ in (("deletion", images, torch.zeros_like(images)), ("insertion", blurred, images)):
            scores = classifier.scores(torch.where(first, with_, without))
            curves[name].append(scores.gather(1, labels[:, None])[:, 0])
    return Curves(**{name: torch.stack(found, 1) for name, found in curves.items()})


def blur(images: Tensor) -> Tensor:
    """Return images blurred by a Gaussian, with black around them."""
    offset = torch.arange(SIDE) - SIDE // 2
    line = torch.exp(-(offset**2) / (2 * DEVIATION**2))
    kernel = (torch.outer(line, line) / line.sum() ** 2).to(images)
    image_BCHW = images.permute(0, 3, 1, 2)
    blurred = torch.nn.functional.conv2d(image_BCHW.flatten(0, 1).unsqueeze(1), kernel[None, None], padding=SIDE // 2)
    return blurred.view(image_BCHW.shape).permute(0, 2, 3, 1)


def measure_explanations(
    explainer: Explainer, batches: Batches, count: int, *, steps: int = STEPS, seed: int = 0
) -> dict[str, Curves]:
    """Return deletion and insertion of the best class of each image by its maps and by those of three controls.

    `flow`, if the network has one; `gradient_input`; and the controls `brightness`, the values of the pixels;
    `random_coarse`, with `flow`: random values at the positions where the flow ends, laid over the image as the flow
    is; `random`: a random value for each pixel.

    Args:
        explainer: A network.
        batches: Images, of which a balanced choice is used.
        count: How many; all if there are fewer.
        steps: In how many steps all pixels go.
        seed: Of random values, and of the order of equal ones.

    Raises:
        ArgumentError: There are fewer than two images, of which no interval follows, or there is no step.
    """
    sample = balanced_sample(batches, count)
    if sample.num_images < 2:
        raise ArgumentError(f"an interval needs at least 2 images; received {sample.num_images}")
    random = torch.Generator().manual_seed(seed)
    found: dict[str, list[Curves]] = {}
    for images, _ in map(sample.batch, range(len(sample))):
        labels = explainer.classifier.scores(images).argmax(1)
        for name, maps in _maps(explainer, images.float(), labels, random).items():
            curves = deletion_and_insertion(explainer.classifier, images.float(), maps, labels, random, steps)
            found.setdefault(name, []).append(curves)
    return {
        name: Curves(torch.cat([one.deletion for one in parts]), torch.cat([one.insertion for one in parts]))
        for name, parts in found.items()
    }


def _maps(explainer: Explainer, images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    """Return the maps `(B, H, W)` of a batch by method."""
    maps: dict[str, Tensor] = {}
    coarse: dict[str, Tensor] = {}
    if explainer.path is not None:
        flow, flows = explainer.maps(images, labels[:, None])
        maps["flow"] = flow[:, 0]
        noise = [torch.rand(each.shape, generator=random) for each in flows.values()]
        coarse["random_coarse"] = explainer.over_image(noise)[:, 0]
    gradient = gradient_times_input(explainer.classifier.model, images, labels[:, None])
    maps["gradient_input"] = gradient[:, 0].float().cpu()
    maps["brightness"] = images.mean(3)
    return {**maps, **coarse, "random": torch.rand(images.shape[:3], generator=random)}
