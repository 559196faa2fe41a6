"""The classes that a trained network gets wrong, and the hardest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encapkeras.analysis.classify import Classifier
from encapkeras.data import Batches
from encapkeras.errors import ArgumentError


@dataclass(frozen=True)
class ClassErrors:
    """How often the images of one class are misclassified.

    Attributes:
        label: The class, from 0.
        class_name: Its name.
        images: The number of its images.
        errors: How many of them are errors.
    """

    label: int
    class_name: str
    images: int
    errors: int

    @property
    def error(self) -> float | None:
        """The part that are errors, 0 to 1; None without images.

        Examples:
            >>> ClassErrors(0, "cat", images=8, errors=2).error
            0.25
        """
        return self.errors / self.images if self.images else None


def class_errors(classifier: Classifier, batches: Batches, top: int = 1) -> list[ClassErrors]:
    """Count the errors of each class, in the order of the labels.

    Args:
        classifier: A network.
        batches: Images and labels.
        top: An image is an error if its class is not among that many classes with the highest scores; of equal scores
            the lower label ranks first.

    Raises:
        ArgumentError: `top` is below 1, or not below the number of classes, so that there could be no error; or the
            images have several labels.
    """
    names = classifier.class_names
    if not 1 <= top < len(names):
        raise ArgumentError(f"top must be from 1 to {len(names) - 1}, one less than the classes; received {top}")
    there = torch.bincount(batches.classes, minlength=len(names))
    wrong = torch.zeros_like(there)
    for images, labels in batches:
        best = classifier.scores(images).argsort(dim=1, descending=True, stable=True)[:, :top]
        missed = (best != labels[:, None]).all(1)
        wrong += torch.bincount(labels[missed], minlength=len(names))
    rows = zip(names, there.tolist(), wrong.tolist(), strict=True)
    return [ClassErrors(label, name, images, errors) for label, (name, images, errors) in enumerate(rows)]


def hardest(classes: Sequence[ClassErrors], count: int | None = None) -> list[ClassErrors]:
    """Return the classes with the greatest part of errors, the hardest first; of equal ones the lower label first.

    Args:
        classes: The errors of each class. Those without images are left out.
        count: How many; None for all.

    Raises:
        ArgumentError: `count` is below 1, or fewer classes have images.

    Examples:
        >>> found = [ClassErrors(0, "cat", 8, 2), ClassErrors(1, "dog", 4, 1), ClassErrors(2, "owl", 5, 4)]
        >>> [each.class_name for each in hardest(found, 2)]
        ['owl', 'cat']
    """
    known = [(each.error, each) for each in classes if each.error is not None]
    if count is not None and not 1 <= count <= len(known):
        raise ArgumentError(f"cannot choose {count} classes: {len(known)} have images")
    ranked = sorted(known, key=lambda pair: (-pair[0], pair[1].label))
    return [each for _, each in ranked[:count]]
