"""Regularizers and constraints in models of specs: they count in the loss once, are saved, and change no prediction."""

import copy

import keras
import numpy as np
import pytest
import torch
from support.side_loss_spec import IMAGES, LABELS, SPEC, without_output_loss

from encapkeras import build_model, check_spec, load_model
from encapkeras.errors import SpecError, TrainingError
from encapkeras.interop import export_model
from encapkeras.training.callbacks import NonFiniteStop
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay

MAX_NORM = {"class_name": "max_norm", "config": {"max_value": 0.3, "axis": [0, 1, 2]}}


def regularized(spec=SPEC, **stem):
    spec = copy.deepcopy(spec)
    spec["model"]["nodes"]["stem"].update(stem or {"kernel_regularizer": {"class_name": "l2", "config": {"l2": 0.5}}})
    return spec


def compiled(spec, optimizer="sgd"):
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    model.compile(optimizer=optimizer, loss=model.make_losses(), loss_weights=model.loss_weights)
    return model


def penalty(model):
    return 0.5 * model.get_layer("stem").weights[0].value.square().sum().item()


def test_the_loss_of_fit_and_evaluate_has_the_penalty_once():
    plain, model = compiled(SPEC), compiled(regularized())
    before = penalty(model)
    results = []
    for each in (plain, model):
        evaluated = each.evaluate(IMAGES, LABELS, batch_size=6, verbose=0, return_dict=True)
        trained = each.fit(IMAGES, LABELS, batch_size=6, verbose=0).history
        results.append((evaluated, {name: values[0] for name, values in trained.items()}))
    for without, with_it in zip(*results, strict=True):
        assert with_it.keys() == without.keys()  # as in Keras, it has no name of its own
        assert with_it["loss"] == pytest.approx(without["loss"] + before, rel=1e-5)
        assert with_it["reconstruction_loss"] == pytest.approx(without["reconstruction_loss"], rel=1e-5)


def test_a_model_whose_only_losses_are_inside_of_it_counts_the_penalty_too():
    model, plain = compiled(regularized(without_output_loss())), compiled(without_output_loss())
    losses = [each.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["loss"] for each in (model, plain)]
    assert losses[0] == pytest.approx(losses[1] + penalty(model), rel=1e-5)


def test_a_step_follows_the_penalty_beside_coupled_weight_decay():
    """Both are gradients of squares, so that they add: `2 * 0.5 * w` of the regularizer and `rate * w` of the decay."""
    steps = []
    for spec, rate in ((SPEC, 1.25), (regularized(), 0.25)):
        model = compiled(spec, CoupledWeightDecay(keras.optimizers.SGD(0.1), rate))
        model.fit(IMAGES, LABELS, batch_size=6, verbose=0)
        steps.append(model.get_layer("stem").weights[0].numpy())
    np.testing.assert_allclose(*steps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wrapped", [False, True])
def test_constraints_hold_after_each_step_of_wrapped_optimizers_too(wrapped):
    optimizer = keras.optimizers.SGD(0.1)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(CoupledWeightDecay(optimizer, 0.1))
    model = compiled(regularized(kernel_constraint=MAX_NORM), optimizer)
    kernel = model.get_layer("stem").weights[0]
    assert kernel.value.flatten(1).norm(dim=1).min() > 0.3
    model.fit(IMAGES, LABELS, batch_size=6, verbose=0)
    torch.testing.assert_close(kernel.value.detach().flatten(1).norm(dim=1), torch.full((4,), 0.3))


def test_saved_loaded_and_cloned_models_have_them_and_predict_the_same(tmp_path):
    model = compiled(regularized(kernel_constraint=MAX_NORM, scale_regularizer="l1", activity_regularizer="l2"))
    model.fit(IMAGES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded, cloned = load_model(tmp_path / "model.keras"), keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    expected = model(IMAGES)
    for other in (loaded, cloned):
        assert torch.equal(other(IMAGES), expected)
        assert [loss.item() for loss in other.losses] == [loss.item() for loss in model.losses]
        assert len(other.losses) == 2
        kernel = other.get_layer("stem").weights[0]
        assert torch.equal(kernel.constraint(kernel), model.get_layer("stem").weights[0].constraint(kernel))


def test_an_exported_program_takes_any_number_of_images_whatever_is_regularized(tmp_path):
    spec = regularized(activity_regularizer="l1", kernel_constraint=MAX_NORM)
    spec["model"]["nodes"]["stage"]["activity_regularizer"] = "l2"
    model = compiled(spec)
    export_model(model, tmp_path / "model.pt2", "torch")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for images in (IMAGES[:1], IMAGES[:5]):
        torch.testing.assert_close(program(torch.tensor(images)), model(images))
    assert len(model.losses) == 2  # the model itself has them still


def test_half_precision_computes_the_penalty_of_the_float32_weights():
    spec = {**regularized(), "train": {"precision": "bfloat16"}}
    model = compiled(spec)
    model(IMAGES, training=True)
    assert sum(model.losses).item() == pytest.approx(penalty(model), rel=1e-6)
    assert model.losses[0].dtype == torch.float32


def test_a_penalty_that_is_not_finite_is_named():
    model = compiled(regularized(scale_regularizer="l2"))
    model.get_layer("stem").weights[2].assign([1e30] * 4)  # its square is not finite, and batch norms absorb it
    with pytest.raises(TrainingError, match="what is not is the loss itself: the regularization"):
        model.fit(IMAGES, LABELS, batch_size=6, verbose=0, callbacks=[NonFiniteStop()])


@pytest.mark.parametrize("layer", ["conv_bn_relu", "keras.Conv2D"])
def test_a_regularizer_or_constraint_that_fits_no_such_weight_is_found_before_a_training_is(layer):
    stem = {"layer": layer, "filters": 4, "kernel_size": 3}
    for wrong in ({"kernel_regularizer": "orthogonal_regularizer"}, {"kernel_constraint": {"class_name": "max_norm"}}):
        if "kernel_constraint" in wrong:
            wrong["kernel_constraint"] |= {"config": {"axis": 4}}
        with pytest.raises(SpecError, match=r"model\.nodes\.stem(.|\n)* does not fit weight 'stem/.*\(3, 3, 1, 4\)"):
            check_spec(regularized(**stem, **wrong))
    check_spec(regularized(**stem, kernel_constraint=MAX_NORM, kernel_regularizer="l1"))
