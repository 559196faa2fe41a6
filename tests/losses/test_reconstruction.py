"""The reconstruction loss against its formula, and the decoder as a user looks at it."""

import keras
import numpy as np
import pytest
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import DecoderWeights, NormWeights, TransposedConvolution, transposed_decoder
from encapkeras.losses import ReconstructionLoss


def make(hidden=(5, 7), shape=(4, 4, 1)):
    keras.utils.set_random_seed(0)
    loss = ReconstructionLoss(hidden=hidden)
    capsules, image = torch.randn(6, 3, 2), torch.rand(6, *shape)
    return loss, capsules, image, torch.arange(6) % 3


def literal(loss, capsules, image, labels):
    """Section 4.1 of the paper, image by image and layer by layer."""
    sums = []
    for capsule_set, pixels, label in zip(capsules, image, labels, strict=True):
        masked = torch.zeros_like(capsule_set)
        masked[label] = capsule_set[label]
        values = masked.reshape(-1)
        weights = [weight.value for weight in loss.weights]
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            values = torch.relu(values @ kernel + bias)
        made = torch.sigmoid(values @ weights[-2] + weights[-1]).reshape(pixels.shape)
        sums.append(((made - pixels) ** 2).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 7)])
def test_the_loss_is_the_sum_over_the_pixels(hidden):
    loss, capsules, image, labels = make(hidden)
    values = loss(capsules=capsules, image=image, labels=labels)
    torch.testing.assert_close(values, literal(loss, capsules, image, labels))


def test_the_decoder_has_the_papers_size():
    loss = ReconstructionLoss()
    loss(capsules=torch.rand(1, 10, 16), image=torch.rand(1, 28, 28, 1), labels=torch.tensor([0]))
    assert [weight.shape for weight in loss.weights] == [
        (160, 512),
        (512,),
        (512, 1024),
        (1024,),
        (1024, 784),
        (784,),
    ]


def test_the_bilinear_decoder_equals_operations_on_whole_maps():
    """The map is doubled between the centers of pixels: weights of 3/4 and 1/4, at the edges those of the edge."""
    keras.utils.set_random_seed(0)
    loss = ReconstructionLoss(decoder="bilinear", kernel_initializer="he_normal")
    capsules, image, labels = torch.randn(3, 4, 2), torch.rand(3, 16, 24, 2), torch.tensor([3, 0, 2])
    values = loss(capsules=capsules, image=image, labels=labels)
    (kernel, bias, *others) = [weight.value for weight in loss.weights]
    masked = capsules * torch.nn.functional.one_hot(labels, 4)[..., None]
    made = (masked.flatten(1) @ kernel + bias).view(3, 1, 4, 5)
    for number, (kernel, bias) in enumerate(zip(others[::2], others[1::2], strict=True)):
        if number < 3:
            for axis in (2, 3):
                first, last = made.narrow(axis, 0, 1), made.narrow(axis, -1, 1)
                before = torch.cat([first, made.narrow(axis, 0, made.shape[axis] - 1)], axis)
                after = torch.cat([made.narrow(axis, 1, made.shape[axis] - 1), last], axis)
                both = [0.75 * made + 0.25 * before, 0.75 * made + 0.25 * after]
                made = torch.stack(both, axis + 1).flatten(axis, axis + 1)
        made = torch.nn.functional.conv2d(made, kernel, bias)
        made = torch.where(made > 0, made, 0.2 * made) if number < 3 else made.sigmoid()
    expected = (made.permute(0, 2, 3, 1) - image).square().sum((1, 2, 3))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    assert loss.reconstruct(capsules).shape == image.shape


def test_the_bilinear_decoder_has_the_codes_size_and_names_what_it_cannot_make():
    loss = ReconstructionLoss(decoder="bilinear")
    loss(capsules=torch.rand(1, 5, 16), image=torch.rand(1, 48, 48, 2), labels=torch.tensor([0]))
    assert sum(weight.value.numel() for weight in loss.weights) == 229_570
    for shape, message in [((28, 28, 1), "multiples of 8; received 28 x 28"), ((9,), r"\(H, W, C\); received shape")]:
        with pytest.raises(ShapeError, match=message):
            ReconstructionLoss(decoder="bilinear")(
                capsules=torch.rand(1, 5, 16), image=torch.rand(1, *shape), labels=torch.tensor([0])
            )


def test_labels_may_be_integers_columns_or_one_hot():
    loss, capsules, image, labels = make()
    forms = [labels, labels.to(torch.uint8), labels.float()[:, None], torch.nn.functional.one_hot(labels, 3)]
    first, *others = (loss(capsules=capsules, image=image, labels=form) for form in forms)
    for other in others:
        torch.testing.assert_close(other, first)


def test_only_the_labelled_capsule_gets_a_gradient():
    loss, capsules, image, labels = make()
    capsules.requires_grad_()
    loss(capsules=capsules, image=image, labels=labels).sum().backward()
    reached = capsules.grad.abs().sum(-1) > 0
    assert torch.equal(reached, torch.nn.functional.one_hot(labels, 3).bool())
    assert all(weight.value.grad is not None for weight in loss.weights)


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 5, 2), (9,)])
def test_reconstructions_have_the_images_shape(shape):
    loss, capsules, image, labels = make(shape=shape)
    loss(capsules=capsules, image=image, labels=labels)
    made = loss.reconstruct(capsules, labels)
    assert made.shape == image.shape
    assert not made.requires_grad
    assert ((made > 0) & (made < 1)).all()
    torch.testing.assert_close(
        (made - image).square().flatten(1).sum(1), loss(capsules=capsules, image=image, labels=labels)
    )


def test_without_labels_the_longest_capsule_is_decoded():
    loss, capsules, image, labels = make()
    loss(capsules=capsules, image=image, labels=labels)
    longest = capsules.norm(dim=-1).argmax(-1)
    made = loss.reconstruct(capsules.numpy())
    torch.testing.assert_close(made, loss.reconstruct(capsules, longest.numpy()))
    assert not torch.allclose(made, loss.reconstruct(capsules, (longest + 1) % 3))


def test_shapes_that_do_not_fit_are_named():
    loss, capsules, image, labels = make()
    with pytest.raises(ShapeError, match="knows no shapes yet"):
        loss.reconstruct(capsules)
    loss(capsules=capsules, image=image, labels=labels)
    with pytest.raises(ShapeError, match=r"capsules of shape \('batch', 3, 2\); received \(6, 2, 3\)"):
        loss.reconstruct(capsules.mT)
    with pytest.raises(ArgumentError, match="whole numbers from 0 to 2"):
        loss.reconstruct(capsules, labels + 1)
    with pytest.raises(ShapeError, match="one per class"):
        ReconstructionLoss()(capsules=torch.rand(2, 3), image=image[:2], labels=labels[:2])


@pytest.mark.parametrize("wrong", [None, ["a", "b"], np.array(["a"]), [[1.0], [1.0, 2.0]], {"a": 1}, object()])
def test_what_is_no_tensor_of_numbers_is_refused(wrong):
    loss, capsules, image, labels = make()
    loss(capsules=capsules, image=image, labels=labels)
    with pytest.raises(ArgumentError, match="capsules must be a tensor or array of numbers; received "):
        loss.reconstruct(wrong)
    if wrong is not None:
        with pytest.raises(ArgumentError, match="labels must be a tensor or array of numbers; received "):
            loss.reconstruct(capsules, wrong)


def test_a_wrong_argument_is_named():
    with pytest.raises(ArgumentError, match=r"reconstruction: hidden\.1: must be greater than 0; received 0"):
        ReconstructionLoss(hidden=[5, 0])


def test_config_makes_the_same_loss():
    loss = ReconstructionLoss(hidden=[5, 7], name="mine")
    again = keras.layers.deserialize(keras.layers.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.hidden == (5, 7)


def test_half_precision_rounds_neither_labels_nor_weights():
    """300 is no bfloat16."""
    keras.utils.set_random_seed(0)
    loss = ReconstructionLoss(hidden=[], dtype="mixed_bfloat16")
    capsules, image = torch.rand(2, 301, 1), torch.rand(2, 1, 1, 1)
    labels = np.array([300.0, 299.0])
    values = loss(capsules=capsules.bfloat16(), image=image, labels=labels)
    assert values.dtype == torch.float32
    expected = literal(loss, capsules.bfloat16().float(), image, [300, 299])
    torch.testing.assert_close(values, expected)


def transposed(shape=(8, 8, 2), **options):
    keras.utils.set_random_seed(0)
    options = {"class_independent": True, "filters": (5, 3), "strides": (1, 2), **options}
    loss = ReconstructionLoss(decoder="transposed", **options)
    capsules, image = torch.randn(6, 3, 4), torch.rand(6, *shape)
    return loss, capsules, image, torch.arange(6) % 3


def test_the_transposed_decoder_equals_keras():
    """Of Keras' own layers, of which a kernel as large as the stride, or stride 1, needs no odd padding."""
    loss, capsules, image, labels = transposed(strides=(1, 1))
    values = loss(capsules=capsules, image=image, labels=labels, training=True)
    weights = {weight.name: weight.value for weight in loss.weights}
    features = torch.relu(capsules[torch.arange(6), labels] @ weights["kernel"] + weights["dense_bias"])
    features = keras.layers.BatchNormalization(momentum=0.8)(features.reshape(6, 8, 8, 16), training=True)
    for number in (1, 2, 3):
        kernel = weights[f"transposed{number}_kernel"]
        layer = keras.layers.Conv2DTranspose(kernel.shape[1], 3, padding="same")
        layer.build(features.shape)
        layer.kernel.assign(kernel.detach().permute(2, 3, 1, 0))
        features = layer(features)
    expected = (torch.relu(features) - image).square().flatten(1).sum(1)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


def test_a_stride_doubles_the_sides_and_cuts_at_the_end():
    """An image of one hot pixel: where the kernel's numbers come out is where TensorFlow puts them."""
    norm = NormWeights(torch.ones(1), torch.zeros(1), torch.zeros(1), torch.ones(1) - 1e-3)
    kernel = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    weights = DecoderWeights(torch.eye(4), torch.zeros(4), norm, [TransposedConvolution(kernel, torch.zeros(1))])
    made = [
        transposed_decoder(torch.eye(4)[[pixel]], weights, size=(2, 2), strides=[2], training=False)[0, :, :, 0]
        for pixel in (0, 3)
    ]
    assert torch.equal(made[0].round(), torch.tensor([[1.0, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [0, 0, 0, 0]]))
    assert torch.equal(made[1].round(), torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 4, 5]]))


def test_a_class_independent_decoder_does_not_know_the_class():
    loss, capsules, image, labels = transposed()
    loss(capsules=capsules, image=image, labels=labels)
    alike = capsules[:, :1].expand(-1, 3, -1)
    first, second = (loss.reconstruct(alike, torch.full((6,), label)) for label in (0, 2))
    assert torch.equal(first, second)
    assert first.shape == image.shape
    dense = ReconstructionLoss(hidden=(5,), class_independent=True)
    dense(capsules=capsules, image=image, labels=labels)
    assert dense.weights[0].shape == (4, 5)
    assert torch.equal(dense.reconstruct(alike, labels), dense.reconstruct(alike, (labels + 1) % 3))


def test_the_batch_norm_of_the_decoder_learns_statistics_in_training_alone():
    loss, capsules, image, labels = transposed()
    loss(capsules=capsules, image=image, labels=labels)
    (mean,) = [weight for weight in loss.non_trainable_weights if weight.name == "norm_mean"]
    before = mean.value.clone()
    loss(capsules=capsules, image=image, labels=labels)
    loss.reconstruct(capsules)
    assert torch.equal(mean.value, before)
    loss(capsules=capsules, image=image, labels=labels, training=True)
    assert not torch.equal(mean.value, before)


def test_a_transposed_decoder_can_be_made_again():
    loss, capsules, image, labels = transposed()
    values = loss(capsules=capsules, image=image, labels=labels)
    again = ReconstructionLoss.from_config(loss.get_config())
    again(capsules=capsules, image=image, labels=labels)
    again.set_weights(loss.get_weights())
    assert torch.equal(again(capsules=capsules, image=image, labels=labels), values)
    values.sum().backward()
    assert all(weight.value.grad is not None for weight in loss.trainable_weights)


def test_impossible_transposed_decoders():
    with pytest.raises(ArgumentError, match=r"strides must be one for each of the 2 filters, each from 1 to 3"):
        transposed(strides=(2,))
    loss, capsules, image, labels = transposed(shape=(7, 8, 1))
    with pytest.raises(ShapeError, match=r"whose sides divide by 2, the product of strides=\[1, 2\]; received"):
        loss(capsules=capsules, image=image, labels=labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"decoder": "transposed", "hidden": [3]}, "hidden is of the decoder 'dense', and there is 'transposed'"),
        ({"filters": [3]}, "filters is of the decoder 'transposed', and there is 'dense'"),
    ],
)
def test_options_of_another_decoder_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        ReconstructionLoss(**options)


def test_all_decoders_take_initializers():
    for decoder in ("dense", "bilinear", "transposed"):
        loss = ReconstructionLoss(decoder=decoder, kernel_initializer="zeros", output_initializer="ones")
        loss(capsules=torch.rand(2, 3, 4), image=torch.rand(2, 8, 8, 1), labels=torch.tensor([0, 2]))
        kernels = [weight.value for weight in loss.trainable_weights if weight.value.dim() > 1]
        assert not any(kernel.any() for kernel in kernels[:-1])
        assert (kernels[-1] == 1).all()
