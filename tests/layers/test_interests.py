"""Layers of interests: masks through models, draws, the number of interests, lengths that do not fit."""

import keras
import numpy as np
import pytest
import torch

from encapkeras import build_model
from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.interop import export_model
from encapkeras.layers import InterestAttention, InterestCapsules, LabelAttention

LAYERS = {
    "all": lambda **options: InterestCapsules(3, 5, **options),
    "interest": lambda **options: InterestCapsules(3, 5, matrices="interest", use_bias=True, **options),
    "step": lambda **options: InterestCapsules(3, 5, matrices="step", **options),
    "attention": lambda **options: InterestAttention(3, **options),
}
MASK = torch.arange(7) < torch.tensor([[7], [4], [0]])


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


def test_padded_steps_change_nothing(make):
    layer = make(length=9)
    sequence = torch.randn(3, 7, 4)
    first = layer(sequence, mask=MASK)
    sequence[~MASK] = torch.inf
    assert torch.equal(layer(sequence, mask=MASK), first)
    torch.testing.assert_close(layer(sequence[1:2, :4]), first[1:2])
    assert torch.equal(first[2], torch.zeros_like(first[2]))


def test_all_masked_sequences_have_finite_gradients(make):
    layer = make()
    for training in (False, True):
        sequence = torch.randn(3, 7, 4, requires_grad=True)
        layer(sequence, mask=torch.zeros(3, 7, dtype=torch.bool), training=training).square().sum().backward()
        assert torch.equal(sequence.grad, torch.zeros_like(sequence))
        assert all(weight.value.grad.isfinite().all() for weight in layer.trainable_weights)


def test_masks_of_another_length_are_refused(make):
    layer = make(name="interests")
    with pytest.raises(ShapeError, match=r"interests: mask must have one entry for each step, .* = \(3, 7\)"):
        layer(torch.randn(3, 7, 4), mask=MASK[:, 1:])


def test_a_masking_before_is_used_and_stops(make):
    inputs = keras.Input((7, 4))
    layer = make()
    outputs = layer(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    sequence = torch.randn(3, 7, 4) * MASK.unsqueeze(2)
    torch.testing.assert_close(model(sequence), layer(sequence, mask=MASK))
    assert getattr(model(sequence), "_keras_mask", None) is None
    np.testing.assert_allclose(model.predict(sequence.numpy(), verbose=0), model(sequence).numpy(force=True), rtol=1e-5)


def test_prediction_draws_the_same_logits_and_training_others():
    layer = InterestCapsules(3, 5, seed=1)
    sequence = torch.randn(2, 7, 4)
    first = layer(sequence)
    assert torch.equal(layer(sequence), first)
    torch.testing.assert_close(layer(sequence[1:]), first[1:])
    drawn = layer(sequence, training=True)
    assert not torch.allclose(drawn, first)
    assert not torch.allclose(layer(sequence, training=True), drawn)
    twin = InterestCapsules(3, 5, seed=1)
    twin.build(sequence.shape)
    twin.set_weights(layer.get_weights())
    assert torch.equal(twin(sequence, training=True), drawn)
    assert layer.initial_logits.value.abs().max() <= 2


def test_sequences_of_any_length_have_random_logits_too():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, InterestCapsules(3, 5)(inputs))
    for steps in (1, 7, 300):
        assert model(torch.randn(2, steps, 4)).shape == (2, 3, 5)


@pytest.mark.parametrize("name", LAYERS)
def test_longer_sequences_than_the_length_are_refused(name):
    layer = LAYERS[name](length=5, name="x")
    with pytest.raises(ShapeError, match="x takes sequences of up to 5 steps; received one of 7"):
        layer(torch.randn(3, 7, 4))
    assert layer(torch.randn(3, 4, 4)).shape[0] == 3
    with pytest.raises(ShapeError, match="up to 5 steps; received one of 6"):
        layer(torch.randn(3, 6, 4))


@pytest.mark.parametrize("make", [LAYERS["step"], lambda **options: InterestAttention(3, **options)])
def test_weights_of_steps_are_for_as_many_as_there_were(make):
    layer = make()
    layer(torch.randn(3, 7, 4))
    layer(torch.randn(3, 6, 4))
    with pytest.raises(ShapeError, match="up to 7 steps; received one of 8"):
        layer(torch.randn(3, 8, 4))
    with pytest.raises(ShapeError, match="the length of sequences must be known"):
        make()(keras.Input((None, 4)))


def test_the_number_of_interests_masks_the_others():
    sequence, target = torch.randn(3, 7, 4), torch.randn(3, 5)
    layer = InterestCapsules(3, 5, count_by_length=True)
    out = layer(sequence, mask=MASK)
    assert (out.norm(dim=-1) > 0).tolist() == [[True, True, True], [True, True, False], [False, False, False]]
    mask = layer.compute_mask(sequence, MASK)
    assert mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    inputs = [keras.Input((7, 4)), keras.Input((5,))]
    read = LabelAttention(power=2)
    model = keras.Model(inputs, read([layer(keras.layers.Masking()(inputs[0])), inputs[1]]))
    expected = read([out, target], mask=[mask, None])
    torch.testing.assert_close(model([sequence * MASK.unsqueeze(2), target]), expected)
    assert not torch.allclose(expected, read([out.detach(), target]))


def test_label_attention_takes_the_interest_that_agrees_most():
    interests, target = torch.randn(4, 3, 5), torch.randn(4, 5)
    best = (interests @ target.unsqueeze(2)).squeeze(2).argmax(1)
    for layer in (LabelAttention(hard=True), LabelAttention(power=100)):
        assert torch.equal(layer([interests, target]), interests[range(4), best])


def test_what_would_leave_all_interests_equal_is_refused():
    with pytest.raises(ArgumentError, match="all interests would stay equal"):
        InterestCapsules(3, 5, logits="zeros")
    with pytest.raises(ArgumentError, match="'use_bias' must be false"):
        InterestCapsules(3, 5, matrices="step", use_bias=True)
    with pytest.raises(ShapeError, match="takes a sequence"):
        InterestCapsules(3, 5)(torch.randn(3, 7))
    with pytest.raises(ShapeError, match="takes a list of interests"):
        LabelAttention()([torch.randn(2, 3, 4), torch.randn(2, 5)])
    with pytest.raises(ShapeError, match="takes a list of interests"):
        LabelAttention()(torch.randn(2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_exported_layers_give_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    arguments = {"layer": "interest_capsules", "capsules": 3, "dim": 5, "matrices": name}
    if name == "attention":
        arguments = {"layer": "interest_attention", "capsules": 3}
    nodes = {
        "real": {"layer": "keras.Masking", "inputs": "steps"},
        "interests": {**arguments, "inputs": "real"},
        "scores": {"layer": "capsule_length", "inputs": "interests"},
    }
    model = build_model({"model": {"inputs": {"steps": [7, 4]}, "nodes": nodes, "outputs": {"out": "scores"}}})
    steps = (torch.randn(3, 7, 4) * MASK.unsqueeze(2)).numpy()
    expected = model.predict(steps, verbose=0)
    export_model(model, tmp_path / "network.pt2", "torch")
    found = torch.export.load(tmp_path / "network.pt2").module()(torch.from_numpy(steps))
    np.testing.assert_allclose(found.numpy(force=True), expected, atol=1e-5)
    export_model(model, tmp_path / "network.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    np.testing.assert_allclose(session.run(["scores"], {"images": steps})[0], expected, atol=1e-5)
