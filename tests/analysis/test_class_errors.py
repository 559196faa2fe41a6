import pytest
import torch

from encapkeras import EncapkerasError
from encapkeras.analysis import (
    ClassErrors,
    affine_accuracy,
    class_errors,
    hardest,
    one_of_each_class,
    ten_crop_accuracy,
)
from encapkeras.data import Batches
from encapkeras.errors import ArgumentError

SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.0],  # of class 0: right
        [0.1, 0.2, 0.7],  # of class 0: third
        [0.5, 0.5, 0.1],  # of class 1: second, for the lower label of equal scores is the first
        [0.4, 0.9, 0.5],  # of class 1: right
        [0.6, 0.7, 0.1],  # of class 0: second
    ]
)


class KnownScores:
    """Takes the scores from the pixels."""

    class_names, image_shape = ("cat", "dog", "owl"), (1, 3, 1)

    def scores(self, images):
        return images[:, 0, :, 0]


@pytest.fixture
def batches():
    return Batches(SCORES[:, None, :, None], torch.tensor([0, 0, 1, 1, 0]), height=1, width=3, batch_size=2)


def test_errors_of_each_class(batches):
    assert class_errors(KnownScores(), batches) == [
        ClassErrors(0, "cat", images=3, errors=2),
        ClassErrors(1, "dog", images=2, errors=1),
        ClassErrors(2, "owl", images=0, errors=0),
    ]


def test_errors_among_the_two_best(batches):
    assert [each.errors for each in class_errors(KnownScores(), batches, top=2)] == [1, 0, 0]


@pytest.mark.parametrize("top", [0, 3])
def test_a_top_that_leaves_no_error(top, batches):
    with pytest.raises(EncapkerasError, match=f"top must be from 1 to 2, one less than the classes; received {top}"):
        class_errors(KnownScores(), batches, top=top)


def test_images_of_several_classes_have_no_errors_of_a_class():
    several = Batches(SCORES[:, None, :, None], torch.eye(3)[[0, 0, 1, 1, 0]], height=1, width=3, batch_size=2)
    for measure in (class_errors, affine_accuracy, ten_crop_accuracy, one_of_each_class):
        with pytest.raises(ArgumentError, match="needs one class for each image"):
            measure(KnownScores(), several)


def test_of_equal_classes_the_lower_label_is_the_harder():
    classes = [
        ClassErrors(0, "a", 10, 1),
        ClassErrors(1, "b", 2, 1),
        ClassErrors(2, "c", 4, 2),
        ClassErrors(3, "d", 0, 0),
    ]
    assert [each.class_name for each in hardest(classes)] == ["b", "c", "a"]
    with pytest.raises(EncapkerasError, match="cannot choose 4 classes: 3 have images"):
        hardest(classes, 4)
