"""Every layer that routes all capsules takes sequences with a mask: padded steps count for nothing."""

import keras
import pytest
import torch

from encapkeras.errors import ShapeError
from encapkeras.layers import (
    CapsuleDense,
    CapsuleLength,
    DynamicCapsules,
    EmCapsules,
    Heinsen2019Capsules,
    Heinsen2022Capsules,
    InvertedAttentionCapsules,
    InvertedAttentionStack,
    SelfAttentionCapsules,
    SelfRoutingCapsules,
    Squash,
    VariationalBayesCapsules,
    WindowDynamicCapsules,
    WindowEmCapsules,
)

BATCH, STEPS, REAL, DIM = 3, 7, 5, 4
SIZES = {"capsules": 3, "dim": 4}
MASK = torch.arange(STEPS) < torch.tensor([[REAL], [STEPS], [0]])

# class, arguments, whether it takes activations
LAYERS = {
    "dynamic": (DynamicCapsules, SIZES, False),
    "dynamic by outputs": (DynamicCapsules, {**SIZES, "softmax_over": "outputs"}, False),
    "dynamic own": (DynamicCapsules, {**SIZES, "share_positions": False}, False),
    "dynamic own by outputs": (
        DynamicCapsules,
        {**SIZES, "share_positions": False, "softmax_over": "outputs", "use_bias": False},
        False,
    ),
    "dynamic uniform": (DynamicCapsules, {**SIZES, "routing": "uniform"}, False),
    "em": (EmCapsules, SIZES, True),
    "em alone": (EmCapsules, {**SIZES, "normalize_distances": True}, False),
    "em own": (EmCapsules, {**SIZES, "share_positions": False}, False),
    "em random": (EmCapsules, {**SIZES, "routing": "random"}, False),
    "dense": (CapsuleDense, {**SIZES, "kind": "dense"}, False),
    "dense per_dim": (CapsuleDense, SIZES, False),
    "dense factored": (CapsuleDense, {**SIZES, "kind": "factored"}, False),
    "self_attention": (SelfAttentionCapsules, SIZES, False),
    "self_routing": (SelfRoutingCapsules, SIZES, True),
    "self_routing last": (SelfRoutingCapsules, {"capsules": 3}, True),
    "attention": (InvertedAttentionCapsules, {**SIZES, "iterations": 3}, False),
    "attention of one matrix": (InvertedAttentionCapsules, {**SIZES, "matrices": "all"}, False),
    "attention stack": (InvertedAttentionStack, {"layers": [SIZES, SIZES]}, False),
    "variational_bayes": (VariationalBayesCapsules, SIZES, True),
    "window_dynamic": (WindowDynamicCapsules, SIZES, False),
    "window_dynamic by child": (WindowDynamicCapsules, {**SIZES, "competition": "child"}, False),
    "window_em": (WindowEmCapsules, SIZES, True),
    "window_em by position": (WindowEmCapsules, {**SIZES, "competition": "position", "initial": "one"}, True),
    "heinsen_2019": (Heinsen2019Capsules, SIZES, True),
    "heinsen_2019 of any number": (Heinsen2019Capsules, {**SIZES, "variable_inputs": True}, True),
    "heinsen_2022": (Heinsen2022Capsules, {**SIZES, "iterations": 3}, False),
    "heinsen_2022 of any number": (Heinsen2022Capsules, {**SIZES, "variable_inputs": True}, False),
}
ANY_LENGTH = ["dynamic", "em", "em alone", "heinsen_2019 of any number", "heinsen_2022 of any number"]
# Heinsen's layers by the number of inputs, which padded ones belong to where each has own weights.
LIKE_SHORTER = [name for name in LAYERS if name != "heinsen_2022"]


def make(kind, **options):
    """The layer of a name in double precision."""
    keras.utils.set_random_seed(1)
    layer_class, arguments, _ = LAYERS[kind]
    return layer_class(**arguments, **options, dtype="float64")


def inputs_of(name, steps=STEPS):
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randn(BATCH, steps, DIM, generator=generator, dtype=torch.float64)
    if not LAYERS[name][2]:
        return [sequence]
    return [sequence, torch.rand(BATCH, steps, generator=generator, dtype=torch.float64)]


def call(layer, tensors, mask):
    if len(tensors) == 1:
        return layer(tensors[0], mask=mask)
    return layer(tensors, mask=None if mask is None else [mask, None])


def randomize(layer):
    """Give each weight numbers: those that start at 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(2)
    for weight in layer.trainable_weights:
        weight.assign(torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 2)


@pytest.mark.parametrize("name", LAYERS)
def test_what_padded_steps_hold_counts_for_nothing(name):
    layer, tensors = make(name), inputs_of(name)
    layer.build([each.shape for each in tensors] if len(tensors) > 1 else tensors[0].shape)
    randomize(layer)
    first = call(layer, tensors, MASK)
    for tensor in tensors:
        tensor[~MASK] = torch.nan
        tensor.requires_grad_()
    second = call(layer, tensors, MASK)
    assert torch.equal(first, second)
    second.square().sum().backward()
    for tensor in tensors:
        assert torch.equal(tensor.grad[~MASK], torch.zeros_like(tensor.grad[~MASK]))
        assert tensor.grad.isfinite().all()
    assert all(weight.value.grad is None or weight.value.grad.isfinite().all() for weight in layer.trainable_weights)


@pytest.mark.parametrize("name", LIKE_SHORTER)
def test_a_padded_sequence_is_like_a_shorter_one(name):
    layer, tensors = make(name), inputs_of(name)
    layer.build([each.shape for each in tensors] if len(tensors) > 1 else tensors[0].shape)
    randomize(layer)
    shorter = [tensor[:, :REAL] for tensor in tensors]
    twin = make(name)
    twin.build([each.shape for each in shorter] if len(shorter) > 1 else shorter[0].shape)
    for weight, long in zip(twin.weights, layer.weights, strict=True):
        weight.assign(shortened(long.value, tuple(weight.shape)))
    expected = call(twin, shorter, None)[:1]
    found = call(layer, tensors, MASK)[:1]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def shortened(weight, shape):
    """The weight of the first steps: their axis is the one that is longer, alone or with the components behind it."""
    for axis, (long, short) in enumerate(zip(weight.shape, shape, strict=True)):
        weight = weight.narrow(axis, 0, short) if long != short else weight
    return weight


@pytest.mark.parametrize("name", LAYERS)
def test_masks_of_another_length_are_refused(name):
    with pytest.raises(ShapeError, match=r"routed: mask must .*\(3, 7\).*; received \(3, 6\)"):
        call(make(name, name="routed"), inputs_of(name), MASK[:, 1:])


@pytest.mark.parametrize("name", LAYERS)
def test_the_mask_of_a_masking_is_used_and_stops(name):
    tensors = inputs_of(name)
    tensors[0] = tensors[0].masked_fill(~MASK.unsqueeze(2), 0)
    layer = make(name)
    symbolic = [keras.Input(each.shape[1:], dtype="float64") for each in tensors]
    hidden = keras.layers.Masking(dtype="float64")(symbolic[0])
    given = [hidden, *symbolic[1:]] if len(symbolic) > 1 else hidden
    model = keras.Model(symbolic, layer(given))
    found = model(tensors)
    torch.testing.assert_close(found, call(layer, tensors, MASK))
    assert getattr(found, "_keras_mask", None) is None


OTHER_LENGTHS = [*ANY_LENGTH, "em random", "dynamic uniform", "dynamic by outputs", "attention of one matrix"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("steps", [STEPS - 1, STEPS + 2])
def test_sequences_of_another_length_fit_or_are_refused(name, steps):
    layer = make(name, name="routed")
    call(layer, inputs_of(name), None)
    other = inputs_of(name, steps=steps)
    if name in OTHER_LENGTHS:
        assert call(layer, other, None).shape[0] == BATCH
        return
    wanted = (
        f"was built for 7 input capsules, each with own weights; received {steps}. Pad or cut all inputs to one size"
    )
    with pytest.raises(ShapeError, match=wanted):
        call(layer, other, None)


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_sequences_of_unknown_length_are_taken(name):
    shapes = [each.shape[2:] for each in inputs_of(name)]
    symbolic = [keras.Input((None, *shape), dtype="float64") for shape in shapes]
    outputs = make(name)(symbolic if len(symbolic) > 1 else symbolic[0])
    model = keras.Model(symbolic, outputs)
    for steps in (1, 9):
        assert tuple(model(inputs_of(name, steps=steps)).shape) == (BATCH, *outputs.shape[1:])


def test_masks_go_through_layers_of_single_steps():
    sequence = torch.randn(BATCH, STEPS, DIM) * MASK.unsqueeze(2)
    squashed = Squash()(keras.layers.Masking()(sequence))
    assert torch.equal(squashed._keras_mask, MASK)
    assert torch.equal(CapsuleLength()(squashed)._keras_mask, MASK)
    layer = DynamicCapsules(**SIZES)
    torch.testing.assert_close(layer(squashed), layer(squashed.detach(), mask=MASK))


@pytest.mark.parametrize("softmax_over", ["inputs", "outputs"])
def test_masks_of_maps_hide_single_capsules(softmax_over):
    capsules = torch.randn(2, 3, 3, 2, 4)
    mask = torch.rand(2, 3, 3, 2) > 0.4
    for layer in (DynamicCapsules(**SIZES, softmax_over=softmax_over), EmCapsules(**SIZES)):
        listed = layer(capsules, mask=mask)
        changed = capsules.masked_fill(~mask.unsqueeze(-1), 9.0)
        assert torch.equal(layer(changed, mask=mask), listed)
        assert not torch.allclose(layer(changed), listed)
