"""The classes that a trained network sees in images, with scores and their kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import torch
from torch import Tensor

from encapkeras.analysis.probabilities import Probabilities, ScoreKind
from encapkeras.data.checks import layout_hint
from encapkeras.errors import ArgumentError
from encapkeras.model.spec_model import SpecModel


@dataclass(frozen=True)
class Classified:
    """The scores of all classes for some images.

    Attributes:
        kind: What the scores are: the `length` of class capsules, the `activation` of class capsules of EM routing, a
            `probability`, or a `score`: outputs of another kind, as they are.
        class_names: The name of each class, in the order of the labels; the labels themselves if the model has none.
        scores: `(B, K)`, float32.
        temperature: That of a calibrated network, whose scores are probabilities; None of others.
        present: Which labels each image has, `(B, K)`, bool, for a network of several labels; None of others.
    """

    kind: ScoreKind
    class_names: tuple[str, ...]
    scores: Tensor
    temperature: float | None = None
    present: Tensor | None = None

    def labels(self) -> list[list[str]]:
        """Return for each image the labels that it has, in their order; none of a network of one class each."""
        rows = [] if self.present is None else self.present.tolist()
        return [[name for name, there in zip(self.class_names, row, strict=True) if there] for row in rows]

    def best(self, count: int = 1) -> list[list[tuple[str, float]]]:
        """Return for each image the classes with the highest scores, the highest first; of equal ones the lower label.

        Args:
            count: How many, at least 1; all classes if there are fewer.

        Examples:
            >>> scores = torch.tensor([[0.1, 0.9, 0.25]])
            >>> Classified("length", ("cat", "dog", "owl"), scores).best(2)
            [[('dog', 0.899...), ('owl', 0.25)]]
        """
        ranked = self.scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        best = self.scores.gather(1, ranked)
        return [
            [(self.class_names[label], score) for label, score in zip(labels, scores, strict=True)]
            for labels, scores in zip(ranked.tolist(), best.tolist(), strict=True)
        ]


class Classifier:
    """A network made from a spec as a classifier: what its scores are, and how they follow from its output.

    Capsule lengths and activations stay as they are, whatever the loss. Other outputs become probabilities where their
    loss takes them for logits (`CapsuleLoss.probabilities`), as `cross_entropy` does. Of a calibrated network, all
    become probabilities: see `Probabilities`.

    Args:
        model: A network with one input and one output, one score for each class.

    Raises:
        ArgumentError: The network is of another kind.

    Examples:
        >>> import encapkeras
        >>> classifier = Classifier(encapkeras.build_model("quickstart"))
        >>> classifier.kind, classifier.image_shape, classifier.class_names[:3]
        ('length', (32, 32, 1), ('0', '1', '2'))
    """

    def __init__(self, model: keras.Model) -> None:
        if not isinstance(model, SpecModel):
            raise ArgumentError(
                f"'{getattr(model, 'name', type(model).__name__)}' was not made from a spec, so the "
                "meaning of its outputs is unknown; use a network from build_model or encapkeras train"
            )
        shapes = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
        of_images = [len(shape) for shape in shapes] == [3, 1] and len(model.inputs) == 1
        if not of_images and len(shapes) == 2 and shapes[0][:2] == shapes[1][:-1]:
            raise ArgumentError(
                f"this is for networks that give each image classes, and '{model.name}' gives a class for each pixel. "
                "The scores of pixels: encapkeras.load_model('RUN/checkpoints/best.keras').predict(images); "
                "docs/segmentation.md shows how to write a mask"
            )
        if not of_images:
            raise ArgumentError(
                "only a network with one input (height, width, channels) and one output (classes,) can classify "
                f"images; '{model.name}' has inputs and outputs of the shapes {', '.join(map(str, shapes))}"
            )
        self.model = model
        self.image_shape: tuple[int, int, int] = shapes[0]
        self._probabilities = Probabilities(model, model.classes_per_image)
        self.class_names = self._probabilities.names
        self.kind: ScoreKind = "probability" if model.temperature else self._probabilities.kind

    @torch.no_grad()
    def scores(self, images: Any) -> Tensor:
        """Return the scores of a batch.

        Args:
            images: `(B, H, W, C)` in [0, 1].

        Returns:
            `(B, K)`, float32, on the CPU.
        """
        outputs: Tensor = self.model(images, training=False).detach().float().cpu()
        return self._probabilities(outputs).float() if self.kind == "probability" else outputs

    def classified(self, scores: Tensor) -> Classified:
        """Return scores, as `scores` returns them, with what they are."""
        several = self.model.classes_per_image is None
        present = self._present(scores) if several else None
        return Classified(self.kind, self.class_names, scores, self.model.temperature, present)

    def _present(self, scores: Tensor) -> Tensor:
        """Return which labels are there by their scores; a probability is at least 0.5, whatever the temperature."""
        return scores >= 0.5 if self.kind == "probability" else self._probabilities.present(scores)


def classify(model: keras.Model, images: Any, *, batch_size: int = 64) -> Classified:
    """Return the scores that a trained network gives the classes.

    Args:
        model: A network with one input and one output, made by `build_model` or `load_model`.
        images: `(B, H, W, C)` as the network takes them: uint8, or floats in [0, 1]; tensor or array.
            `prepared_image` makes them from files.
        batch_size: How many images go through the network at once.

    Raises:
        ArgumentError: The network is of another kind, or does not take such images.

    Examples:
        >>> import encapkeras
        >>> model = encapkeras.build_model("quickstart")
        >>> classified = classify(model, torch.rand(5, 32, 32, 1))
        >>> classified.kind, classified.scores.shape
        ('length', torch.Size([5, 10]))
    """
    classifier = Classifier(model)
    batch = as_images(images, classifier.image_shape)
    parts = [classifier.scores(part) for part in batch.split(batch_size)]
    return classifier.classified(torch.cat(parts))


def as_images(images: Any, shape: tuple[int, int, int]) -> Tensor:
    """Convert to float images in [0, 1]."""
    batch = torch.as_tensor(images)
    fits = batch.dim() == 4 and all(size in (None, has) for size, has in zip(shape, batch.shape[1:], strict=True))
    if not fits or not len(batch):
        text = f"the network takes images (batch, {', '.join(map(str, shape))}); received {tuple(batch.shape)}"
        raise ArgumentError(f"{text}. {layout_hint(batch.shape)}".rstrip(". "))
    if batch.dtype == torch.uint8:
        return batch.to(torch.float32) / 255
    if not batch.is_floating_point() or not ((batch >= 0) & (batch <= 1)).all():
        raise ArgumentError(
            f"images must be uint8, or floats from 0 to 1; received {str(batch.dtype).removeprefix('torch.')} from "
            f"{batch.min():g} to {batch.max():g}"
        )
    return batch
