import keras
import pytest
import torch
from support.routing_spec import routing_spec
from support.tiny_spec import tiny_spec

from encapkeras import EncapkerasError, build_model
from encapkeras.analysis import classify
from encapkeras.losses import CrossEntropyLoss


def logits_spec():
    spec = tiny_spec()
    del spec["model"]["nodes"]["lengths"]["activation"]
    spec["losses"] = {"classes": {"loss": "cross_entropy", "scale": 2.0}}
    return spec


def test_logits_become_probabilities():
    model, images = build_model(logits_spec()), torch.rand(3, 32, 32, 1)
    found = classify(model, images)
    assert found.kind == "probability"
    torch.testing.assert_close(found.scores, torch.softmax(2.0 * model(images), -1).detach())


def test_lengths_stay_lengths_whatever_the_loss():
    model, images = build_model(routing_spec()), torch.rand(3, 32, 32, 1)
    found = classify(model, images)
    assert found.kind == "length"
    torch.testing.assert_close(found.scores, model(images).detach())


def test_activations_of_em_routing():
    spec = routing_spec()
    del spec["model"]["nodes"]["lengths"]
    spec["model"]["outputs"] = {"classes": "digits/activations"}
    spec["losses"] = {"classes": {"loss": "spread"}}
    assert classify(build_model(spec), torch.rand(2, 32, 32, 1)).kind == "activation"


def test_outputs_of_another_loss_are_scores():
    assert classify(build_model(tiny_spec()), torch.rand(2, 32, 32, 1)).kind == "score"


def test_batches_change_nothing():
    model, images = build_model(tiny_spec()), torch.rand(7, 32, 32, 1)
    torch.testing.assert_close(classify(model, images).scores, classify(model, images, batch_size=3).scores)


def test_bytes_are_brought_to_the_unit_range():
    model = build_model(tiny_spec())
    images = torch.randint(256, (2, 32, 32, 1), dtype=torch.uint8)
    torch.testing.assert_close(classify(model, images).scores, classify(model, images.numpy() / 255).scores)


def test_a_model_without_data_names_labels():
    spec = logits_spec()
    del spec["data"]
    spec["model"]["inputs"] = {"image": [32, 32, 1]}
    spec["model"]["nodes"]["lengths"]["units"] = 3
    assert classify(build_model(spec), torch.rand(1, 32, 32, 1)).class_names == ("0", "1", "2")


def test_equal_scores_are_in_the_order_of_the_labels():
    model = build_model(tiny_spec())
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    ((first, second),) = classify(model, torch.zeros(1, 32, 32, 1)).best(2)
    assert (first, second) == (("0", 0.5), ("1", 0.5))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 28, 28, 1), r"takes images \(batch, 32, 32, 1\); received \(2, 28, 28, 1\)"),
        (torch.rand(32, 32, 1), r"received \(32, 32, 1\)$"),
        (torch.rand(2, 1, 32, 32), r"received \(2, 1, 32, 32\). This looks like \(N, C, H, W\)"),
        (255 * torch.ones(2, 32, 32, 1), "floats from 0 to 1; received float32 from 255 to 255"),
        (torch.ones(2, 32, 32, 1, dtype=torch.int64), "received int64 from 1 to 1"),
    ],
)
def test_images_that_do_not_fit(images, message):
    with pytest.raises(EncapkerasError, match=message):
        classify(build_model(tiny_spec()), images)


def test_the_loss_tells_whether_outputs_are_logits():
    scores = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(CrossEntropyLoss(scale=3.0).probabilities(scores), torch.softmax(3 * scores, -1))
