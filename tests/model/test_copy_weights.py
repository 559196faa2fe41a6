"""Weights of a trained network in one for other classes."""

import keras
import pytest
import torch
from support.side_loss_spec import SPEC, spec_with

from encapkeras import EncapkerasError, build_model, load_model

THREE = ["data=null", "model.inputs.image=[8,8,1]", "model.nodes.digits.capsules=3"]


def values(layer):
    return [weight.value.clone() for weight in layer.weights]


def equal(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.fixture
def trained():
    keras.utils.set_random_seed(1)
    return build_model(SPEC)


@pytest.fixture
def fresh(trained):
    return build_model(trained.spec, THREE)


def test_all_nodes_but_those_that_are_left_take_the_weights(trained, fresh):
    before = values(fresh.get_layer("digits"))
    fresh.copy_weights(trained, leave=["digits", "reconstruction"])
    for name in ("stem", "stage"):
        assert equal(values(fresh.get_layer(name)), values(trained.get_layer(name)))
    assert equal(values(fresh.get_layer("digits")), before)
    # A copy: training one leaves the other as it is.
    fresh.get_layer("stem").weights[0].assign(0 * fresh.get_layer("stem").weights[0])
    assert trained.get_layer("stem").weights[0].value.any()


def test_all_weights_of_an_equal_model_moving_statistics_and_side_losses_included(trained, tmp_path):
    trained.save(tmp_path / "trained.keras")
    again = build_model(SPEC)
    again.copy_weights(load_model(tmp_path / "trained.keras"))
    assert equal(values(again), values(trained))


def test_a_model_without_a_spec_may_give_weights(trained):
    inputs = keras.Input((8, 8, 1))
    stem = keras.Model(inputs, trained.get_layer("stem")(inputs))
    again = build_model(SPEC)
    again.copy_weights(stem, leave=["stage", "digits", "reconstruction"])
    assert equal(values(again.get_layer("stem")), values(trained.get_layer("stem")))


def test_what_does_not_fit_is_told_all_at_once_and_nothing_is_changed(trained, fresh):
    before = values(fresh)
    with pytest.raises(EncapkerasError) as caught:
        fresh.copy_weights(trained)
    message = str(caught.value)
    assert message.startswith("the weights of 'decoded' do not fit 'decoded': 'digits' has weights [(")
    assert "; 'reconstruction' has weights [(" in message
    assert message.endswith("To keep what these nodes have, give leave=['digits', 'reconstruction']")
    assert equal(values(fresh), before)


def test_a_node_that_the_source_lacks_is_told(trained):
    extra = {"layer": "capsule_stage", "inputs": "stage", "types": 2, "dim": 4, "strides": 1}
    nodes = {"second": extra, "digits": {**SPEC["model"]["nodes"]["digits"], "inputs": "second"}}
    with pytest.raises(EncapkerasError, match=r"do not fit 'decoded': it has no 'second'\. To keep"):
        build_model(spec_with(nodes=nodes)).copy_weights(trained)


def test_leaving_what_is_not_there_is_a_mistake(trained, fresh):
    with pytest.raises(EncapkerasError, match=r"not a node with weights of 'decoded'\. Did you mean 'digits'"):
        fresh.copy_weights(trained, leave=["digit"])


def test_a_network_that_counts_batches_and_one_that_does_not_take_each_others_weights(trained):
    warm = build_model(trained.spec, ["model.nodes.stem.moving_average=warm"])
    (count,) = [weight for weight in warm.weights if weight.name == "norm_count"]
    warm.copy_weights(trained)
    assert int(count) == 10  # from here on as the other
    count.assign(3)
    images = torch.rand(2, *warm.input_shape[1:])
    assert torch.equal(warm(images), trained(images))
    again = build_model(warm.spec)
    again.copy_weights(warm)
    assert equal(values(again), values(warm))
    trained.copy_weights(warm)
