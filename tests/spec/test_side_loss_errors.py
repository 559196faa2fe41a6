"""What is wrong with a side loss, or with how it is used, is said."""

import pytest
import torch
from support.side_loss_spec import IMAGES, LABELS, SIDE, SPEC, compiled, spec_with, without_output_loss

from encapkeras import SpecError, build_model, check_spec
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.losses import SideLoss


def test_a_loss_of_another_shape_is_refused(registered):
    @registered("test_map")
    class Map(SideLoss):
        """Gives its input.

        Call arguments:
            features: Any tensor.
        """

        def call(self, features):
            return features

    with pytest.raises(SpecError, match=r"loss 'test_map' gives shape \(None, 10\), not one number"):
        check_spec(spec_with({"mine": {"loss": "test_map", "features": "lengths"}}))


def test_what_is_missing_while_training_is_said():
    model = compiled()
    with pytest.raises(TrainingError, match=r"\(reconstruction\) need tensors inside the network"):
        model.compute_loss(IMAGES, torch.tensor(LABELS), model(IMAGES))
    model = build_model(without_output_loss())
    model.compile(optimizer="sgd")
    with pytest.raises(TrainingError, match="loss 'reconstruction' needs the labels of 'classes'; none were given"):
        model.fit(IMAGES, verbose=0)


@pytest.mark.parametrize("spec", [SPEC, "without output loss"], ids=["with output loss", "without"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_missing_labels_are_named(spec, method):
    model = compiled(spec if spec is SPEC else without_output_loss())
    with pytest.raises(TrainingError, match="loss 'reconstruction' needs the labels of 'classes'; none were given"):
        getattr(model, method)(IMAGES, verbose=0)


@pytest.mark.parametrize("capsules", [9, 11])
def test_capsules_that_are_not_one_per_class_are_refused(capsules):
    spec = spec_with({"reconstruction": {**SPEC["losses"]["reconstruction"], "capsules": "side"}}, SIDE)
    spec["model"]["nodes"]["side"] = {**SIDE["side"], "capsules": capsules}
    text = rf"losses\.reconstruction\.capsules\n +must be one for each of the 10 classes .*'side' has {capsules}"
    for make in (check_spec, build_model):
        with pytest.raises(SpecError, match=text):
            make(spec)


def test_a_mistake_within_a_loss_is_told_in_our_words_alone():
    model = compiled(without_output_loss())
    with pytest.raises(ArgumentError) as caught:
        model.fit(IMAGES, LABELS + 8, shuffle=False, verbose=0)
    assert str(caught.value) == (
        "labels must be whole numbers from 0 to 9, one less than the classes; received 10 at index (2,)"
    )
