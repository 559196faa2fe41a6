import pytest
import torch
from support.side_loss_spec import SPEC, spec_with
from support.tiny_spec import tiny_spec

from encapkeras import EncapkerasError, build_model
from encapkeras.analysis import Classifier, Decoder, decoders, one_of_each_class, plot_perturbed
from encapkeras.analysis.perturb import VALUES
from encapkeras.data import Batches

LABEL = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(SPEC)


@pytest.fixture(scope="module")
def image():
    return torch.rand(8, 8, 1, generator=torch.Generator().manual_seed(0))


def test_values_are_those_of_the_paper():
    assert pytest.approx([-0.25, -0.2, -0.15, -0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.25]) == VALUES


def test_every_picture_is_a_capsule_with_one_dimension_changed(model, image):
    found = Decoder(model, "reconstruction").perturb(image, LABEL)
    assert found.changed.shape == (4, 11, 8, 8, 1)
    capsules = image[None]
    for name in ("stem", "stage", "digits"):
        capsules = model.get_layer(name)(capsules)
    loss = model.side_losses["reconstruction"]
    torch.testing.assert_close(found.image, image)
    torch.testing.assert_close(found.decoded, loss.reconstruct(capsules, [LABEL])[0])
    for dimension in range(4):
        for step, value in enumerate(VALUES):
            changed = capsules.detach().clone()
            changed[0, LABEL, dimension] += value
            torch.testing.assert_close(found.changed[dimension, step], loss.reconstruct(changed, [LABEL])[0])


def test_a_picture_for_each_dimension_and_value(model, image):
    found = Decoder(model, "reconstruction").perturb(image, LABEL)
    *_, table = plot_perturbed(found, "three").axes
    assert [label.get_text() for label in table.get_yticklabels()] == ["1", "2", "3", "4"]
    assert [label.get_text() for label in table.get_xticklabels()][4:7] == ["-0.05", "0", "+0.05"]
    drawn = torch.as_tensor(table.images[0].get_array())[..., :1]
    torch.testing.assert_close(drawn[9 * 2 : 9 * 2 + 8, 9 * 5 : 9 * 5 + 8], found.changed[2, 5])


def test_networks_without_a_decoder(model):
    plain = build_model(tiny_spec())
    assert decoders(plain) == []
    assert decoders(model) == ["reconstruction"]
    with pytest.raises(EncapkerasError, match=r"'tiny' has no loss 'reconstruction' with a decoder"):
        Decoder(plain, "reconstruction")


def test_a_decoder_of_something_else_than_pictures():
    flat = {"layer": "keras.Flatten", "inputs": "image"}
    again = {"loss": "reconstruction", "capsules": "digits", "image": "flat", "hidden": [4]}
    with pytest.raises(
        EncapkerasError, match=r"loss 'again' makes tensors of shape \(None, 64\), which are not images"
    ):
        Decoder(build_model(spec_with(losses={"again": again}, nodes={"flat": flat})), "again")


def test_images_that_are_told_rightly_stand_for_their_class(model):
    images = torch.rand(40, 8, 8, 1, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(model)
    predicted = classifier.scores(images).argmax(1)
    told = int(predicted[30])
    labels = torch.full((40,), (told + 1) % 10)
    labels[20:] = told  # of these, the first that is told so
    chosen = one_of_each_class(classifier, Batches(images, labels, height=8, width=8, batch_size=16))
    right = next(index for index in range(20, 40) if predicted[index] == told)
    assert set(chosen) == {told, (told + 1) % 10}
    torch.testing.assert_close(chosen[told], images[right])
    wrong = next((index for index in range(20) if predicted[index] == labels[0]), 0)
    torch.testing.assert_close(chosen[(told + 1) % 10], images[wrong])
