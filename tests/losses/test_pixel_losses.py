"""Losses of images with a class for each pixel."""

import keras
import pytest
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.losses import CrossEntropyLoss, DiceLoss, MarginLoss, NegativeLogLikelihoodLoss, SpreadLoss, dice_loss


def drawn(batch=2, height=3, width=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(classes, (batch, height, width), generator=generator)
    return masks, torch.rand(batch, height, width, classes, generator=generator, dtype=torch.float64)


def dice_loops(masks, scores, smoothing):
    losses = []
    for mask, score in zip(masks.tolist(), scores.tolist(), strict=True):
        found = []
        for k in range(len(score[0][0])):
            lines = [zip(row, line, strict=True) for row, line in zip(mask, score, strict=True)]
            pixels = [(float(t == k), a[k]) for line in lines for t, a in line]
            both, either = sum(t * a for t, a in pixels), sum(t + a for t, a in pixels)
            found.append((2 * both + smoothing) / (either + smoothing))
        losses.append(1 - sum(found) / len(found))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [1.0, 0.01])
def test_dice_equals_the_loops(smoothing):
    masks, scores = drawn()
    loss = DiceLoss(smoothing=smoothing)
    torch.testing.assert_close(loss.call(masks, scores), dice_loops(masks, scores, smoothing), rtol=1e-13, atol=0)
    logits = DiceLoss(smoothing=smoothing, from_logits=True)
    expected = dice_loops(masks, scores.softmax(-1), smoothing)
    torch.testing.assert_close(logits.call(masks, scores), expected, rtol=1e-13, atol=0)


def test_dice_of_what_is_found_is_0_and_of_what_is_not_nearly_1():
    masks = torch.tensor([[[0, 0], [1, 1]]])
    found = torch.nn.functional.one_hot(masks, 3).double()
    assert DiceLoss().call(masks, found).tolist() == pytest.approx([0])  # the third class is neither there nor found
    missed = torch.nn.functional.one_hot(1 - masks, 3).double()
    assert DiceLoss(smoothing=1e-9).call(masks, missed).tolist() == pytest.approx([2 / 3])


def test_gradients_of_dice():
    masks, scores = drawn()
    targets = torch.nn.functional.one_hot(masks, 3).double()
    assert torch.autograd.gradcheck(lambda each: dice_loss(each, targets), scores.requires_grad_())


@pytest.mark.parametrize("loss", [MarginLoss(), CrossEntropyLoss(), MarginLoss(class_weights=[1.0, 2.0, 0.5])])
def test_the_loss_of_pixels_is_that_of_as_many_samples(loss):
    masks, scores = drawn()
    by_pixel = loss.call(masks, scores)
    assert by_pixel.shape == masks.shape
    assert torch.equal(by_pixel.flatten(), loss.call(masks.flatten(), scores.flatten(0, 2)))
    one_hot = torch.nn.functional.one_hot(masks, 3)
    assert torch.equal(loss.call(one_hot, scores), by_pixel)
    assert loss(masks, scores).item() == pytest.approx(by_pixel.mean().item())


@pytest.mark.parametrize("loss", [MarginLoss, CrossEntropyLoss, DiceLoss])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_sample_weights_are_those_of_images(loss, reduction):
    masks, scores = drawn(batch=4)  # as many as columns
    weights = torch.tensor([3.0, 0.0, 1.0, 0.5])
    each = torch.stack([loss(dtype="float64")(masks[i : i + 1], scores[i : i + 1]) for i in range(4)])
    expected = (weights * each).sum() / (4 if reduction == "sum_over_batch_size" else weights.sum())
    for given in (weights, weights[:, None], weights.tolist()):
        assert loss(reduction=reduction, dtype="float64")(masks, scores, given).item() == pytest.approx(expected.item())
    with pytest.raises(ShapeError, match=r"must be \(batch,\), here \(4,\).*received shape \(4, 3\)"):
        loss()(masks, scores, torch.ones(4, 3))


def test_sample_weights_may_be_those_of_pixels():
    masks, scores = drawn(batch=4)
    weights = torch.rand(masks.shape)
    for loss in (MarginLoss(dtype="float64"), CrossEntropyLoss(dtype="float64")):
        expected = (weights * loss.call(masks, scores)).mean().item()
        assert loss(masks, scores, weights).item() == pytest.approx(expected)
        assert loss(masks, scores, weights[..., None]).item() == pytest.approx(expected)
    with pytest.raises(ShapeError, match=r"must be \(batch,\), here \(4,\); received shape \(4, 3, 4\)"):
        DiceLoss()(masks, scores, weights)


def test_pixels_may_have_one_class_or_none():
    masks = torch.tensor([[[[0.0], [1.0]]]])
    scores = torch.tensor([[[[0.25], [0.75]]]])
    assert MarginLoss().call(masks, scores).flatten().tolist() == pytest.approx([0.5 * 0.15**2, 0.15**2])
    assert DiceLoss().call(masks, scores).tolist() == pytest.approx([1 - 2.5 / 3])


def test_weights_are_those_of_present_classes():
    lengths = torch.tensor([[0.5, 0.3]], dtype=torch.float64)
    loss = MarginLoss(class_weights=[3.0, 7.0])
    assert loss.call(torch.tensor([0]), lengths).item() == pytest.approx(3 * 0.4**2 + 0.5 * 0.2**2)
    assert loss.call(torch.tensor([1]), lengths).item() == pytest.approx(7 * 0.6**2 + 0.5 * 0.4**2)
    with pytest.raises(ArgumentError, match="class_weights has 2 numbers, and there are 3 classes"):
        loss.call(torch.tensor([1]), torch.rand(1, 3))
    with pytest.raises(ArgumentError, match="class_weights"):
        MarginLoss(class_weights=[-1.0, 1.0])


@pytest.mark.parametrize("loss", [DiceLoss, MarginLoss, CrossEntropyLoss])
def test_masks_that_do_not_fit_are_refused(loss):
    masks, scores = drawn()
    with pytest.raises(ShapeError, match="masks"):
        loss().call(masks[:, :2], scores)
    with pytest.raises(ShapeError, match=r"received scores of shape \(2, 3, 4\)" if loss is DiceLoss else "masks"):
        loss().call(masks, scores[..., 0])
    with pytest.raises(ArgumentError, match=r"from 0 to 2.*received 3 at index \(0, 0, 0\)"):
        loss().call(torch.full_like(masks, 3), scores)


@pytest.mark.parametrize("loss", [SpreadLoss, NegativeLogLikelihoodLoss])
def test_losses_of_one_class_for_each_image_refuse_masks(loss):
    with pytest.raises(ShapeError, match=r"a capsule loss takes scores \(batch, classes\)"):
        loss().call(*drawn())


def test_dice_in_fit_and_its_configuration():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1)])
    model.compile("sgd", DiceLoss(from_logits=True))
    history = model.fit(torch.rand(5, 4, 4, 1), torch.randint(3, (5, 4, 4)), batch_size=2, verbose=0)
    assert 0 < history.history["loss"][0] < 1
    again = keras.losses.deserialize(keras.losses.serialize(DiceLoss(smoothing=0.5, from_logits=True)))
    assert (again.smoothing, again.from_logits) == (0.5, True)
    assert torch.equal(again.probabilities(torch.zeros(1, 2)), torch.full((1, 2), 0.5))
    assert DiceLoss().probabilities(torch.zeros(1, 2)) is None
