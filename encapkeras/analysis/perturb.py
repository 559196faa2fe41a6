"""What the dimensions of class capsules mean to a decoder: images of capsules with one dimension changed."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from encapkeras.analysis.classify import Classifier
from encapkeras.analysis.plots import STYLE
from encapkeras.data import Batches
from encapkeras.errors import ArgumentError
from encapkeras.losses import ReconstructionLoss
from encapkeras.model.spec_model import SpecModel
from encapkeras.text import drawing, in_figure

VALUES = tuple(step / 20 for step in range(-5, 6))
"""What is added to a dimension: -0.25 to 0.25 in steps of 0.05 (Sabour et al. 2017, figure 4)."""

TILE, SINGLE = 0.46, 1.5  # width in inches of a picture in the table, and of one next to it


@dataclass(frozen=True)
class Perturbed:
    """The reconstructions of one image's class capsule; all images are `(H, W, C)`, 0 to 1, on the CPU.

    Attributes:
        image: What the decoder should reconstruct.
        decoded: The reconstruction from the capsule as it is.
        changed: Those from the capsule with `VALUES[v]` added to dimension e, `(E, V, H, W, C)`.
    """

    image: Tensor
    decoded: Tensor
    changed: Tensor


class Decoder:
    """The decoder of a reconstruction loss, with the tensors that it takes from the network.

    Args:
        model: A network made from a spec.
        name: Name of its `reconstruction` loss.

    Raises:
        ArgumentError: It has no such loss, or that does not decode images.
    """

    def __init__(self, model: keras.Model, name: str) -> None:
        if name not in decoders(model):
            raise ArgumentError(f"'{model.name}' has no loss '{name}' with a decoder; it has: {decoders(model)}")
        self._loss = model.side_losses[name]
        (named,) = (loss for loss in model.examined.spec.side_losses if loss.name == name)
        ports = {key: model.port(str(reference)) for key, reference in named.tensors.items()}
        if len(ports["image"].shape) != 4 or ports["image"].shape[3] not in (1, 3):
            raise ArgumentError(f"loss '{name}' makes tensors of shape {ports['image'].shape}, which are not images")
        self._tensors = keras.Model(model.inputs, ports)

    @torch.no_grad()
    def perturb(self, image: Tensor, label: int) -> Perturbed:
        """Decode the capsule of an image's class with each of `VALUES` added to each of its dimensions.

        Args:
            image: `(H, W, C)`, 0 to 1, as the network takes it.
            label: Its class, whose capsule is decoded.
        """
        tensors = self._tensors(image[None], training=False)
        capsules = tensors["capsules"].float()
        dim = capsules.shape[2]
        steps = capsules.new_tensor(VALUES)
        batch = capsules.repeat(1 + dim * len(VALUES), 1, 1)  # the first stays as it is
        added = steps[None, :, None] * torch.eye(dim).to(capsules)[:, None]
        batch[1:, label] += added.flatten(0, 1)
        made = self._loss.reconstruct(batch, torch.full((len(batch),), label)).float().cpu()
        return Perturbed(
            image=tensors["image"][0].float().cpu().clamp(0, 1),
            decoded=made[0],
            changed=made[1:].unflatten(0, (dim, len(VALUES))),
        )


def decoders(model: keras.Model) -> list[str]:
    """Return the names of a network's losses that have a decoder.

    Args:
        model: A Keras model.

    Examples:
        >>> import encapkeras
        >>> decoders(encapkeras.build_model("quickstart"))
        []
    """
    losses = model.side_losses if isinstance(model, SpecModel) else {}
    return [name for name, loss in losses.items() if isinstance(loss, ReconstructionLoss)]


def one_of_each_class(classifier: Classifier, batches: Batches) -> dict[int, Tensor]:
    """Return for each class the first image that is classified correctly, or the first of all if none is.

    Args:
        classifier: A network.
        batches: Images and labels.

    Returns:
        Images `(H, W, C)` by label; classes without images are left out.
    """
    first: dict[int, Tensor] = {}
    right: dict[int, Tensor] = {}
    classes = len(batches.classes.unique())
    for images, labels in batches:
        predicted = classifier.scores(images).argmax(1)
        for image, label, best in zip(images, labels.tolist(), predicted.tolist(), strict=True):
            first.setdefault(label, image)
            if label == best:
                right.setdefault(label, image)
        if len(right) == classes:
            break
    return {label: right.get(label, image) for label, image in sorted(first.items())}


def plot_perturbed(perturbed: Perturbed, class_name: str) -> Figure:
    """Draw the reconstructions with matplotlib: a row for each dimension, a column for each value added to it.

    Args:
        perturbed: The reconstructions of one image.
        class_name: The class whose capsule is decoded.
    """
    dim, steps, height, width = perturbed.changed.shape[:4]
    tall = TILE * dim * height / width
    beside = SINGLE * height / width + 0.4  # inches of each of the two pictures on the left, with its title
    with drawing(STYLE):
        figure = Figure(figsize=(TILE * steps + SINGLE + 1.0, max(tall, 2 * beside + 0.4) + 0.9), layout="constrained")
        grid = figure.add_gridspec(
            3, 2, width_ratios=(SINGLE, TILE * steps), height_ratios=(beside, beside, max(tall - 2 * beside, 0.4))
        )
        for row, (picture, title) in enumerate(((perturbed.image, "image"), (perturbed.decoded, "decoded"))):
            axes = figure.add_subplot(grid[row, 0], anchor="N")
            _show(axes, picture)
            axes.set_title(title)
        _draw_table(figure.add_subplot(grid[:, 1], anchor="N"), perturbed.changed)
        figure.suptitle(f"capsule of class '{in_figure(class_name)}', decoded", fontsize=11)
        return figure


def _draw_table(axes: Axes, changed: Tensor) -> None:
    dim, steps, height, width, channels = changed.shape
    table = torch.ones(dim * (height + 1) - 1, steps * (width + 1) - 1, channels)
    for row in range(dim):
        for column in range(steps):
            top, left = row * (height + 1), column * (width + 1)
            table[top : top + height, left : left + width] = changed[row, column]
    _show(axes, table)
    axes.set_xticks(
        [column * (width + 1) + (width - 1) / 2 for column in range(steps)],
        [f"{value:+.2f}" if value else "0" for value in VALUES],
    )
    axes.set_yticks(
        [row * (height + 1) + (height - 1) / 2 for row in range(dim)], [str(row) for row in range(1, dim + 1)]
    )
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("added to the dimension")
    axes.set_ylabel("dimension")


def _show(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.clamp(0, 1).expand(-1, -1, 3).numpy(), vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
