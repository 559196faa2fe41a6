"""Weights of samples and of classes act on the gradients of the losses of outputs and on side losses alike."""

import numpy as np
import torch
from support.side_loss_spec import IMAGES, LABELS, compiled

WEIGHTS = np.array([1, 0, 2, 0.5, 0, 3], dtype="float32")


def step(model, **options):
    """One step on all images, which moves each weight by its gradient (SGD with rate 0.01)."""
    before = [weight.value.detach().clone() for weight in model.trainable_weights]
    model.fit(IMAGES, LABELS, batch_size=6, shuffle=False, verbose=0, **options)
    return [w.value.detach() - b for w, b in zip(model.trainable_weights, before, strict=True)]


def test_class_weights_are_weights_of_the_images_of_a_class():
    by_class = {label: float(weight) for label, weight in zip(LABELS, WEIGHTS, strict=True)}
    by_class.update({label: 1.0 for label in range(6, 10)})
    of_classes, of_samples, plain = compiled(), compiled(), compiled()
    moved = step(of_classes, class_weight=by_class)
    wanted = step(of_samples, sample_weight=WEIGHTS)
    assert all(torch.equal(*pair) for pair in zip(moved, wanted, strict=True))
    assert not all(torch.allclose(*pair) for pair in zip(moved, step(plain), strict=True))


def test_an_image_with_weight_0_moves_nothing():
    """Not by its labels either, which only the side loss of its class could see."""
    other = LABELS.copy()
    other[[1, 4]] = 9
    one, two = compiled(), compiled()
    step(one, sample_weight=WEIGHTS)
    two.fit(IMAGES, other, batch_size=6, shuffle=False, verbose=0, sample_weight=WEIGHTS)
    pairs = zip(one.trainable_weights, two.trainable_weights, strict=True)
    assert all(torch.equal(a.value, b.value) for a, b in pairs)


def test_the_decoder_of_images_with_weight_0_is_not_trained():
    model = compiled()
    names = [weight.path for weight in model.trainable_weights]
    moved = dict(zip(names, step(model, sample_weight=np.zeros(6, "float32")), strict=True))
    assert not any(change.any() for change in moved.values())
    moved = dict(zip(names, step(model, sample_weight=np.ones(6, "float32")), strict=True))
    assert any(change.any() for name, change in moved.items() if name.startswith("reconstruction"))
