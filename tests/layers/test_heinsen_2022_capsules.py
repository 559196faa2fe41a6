"""Heinsen's second routing as a layer: numbers of his code, masks, its start, and what it refuses."""

import keras
import pytest
import torch
from golden import check, routing_layers
from support.given_weights import called, golden_files

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import end_to_end_credit
from encapkeras.layers import Heinsen2022Capsules

NAMES = {
    "W_A": "active_kernel",
    "B_A": "active_bias",
    "W_F1": "vote_scale",
    "W_F2": "vote_kernel",
    "B_F2": "vote_bias",
    "W_G1": "prediction_kernel",
    "W_G2": "prediction_scale",
    "B_G2": "prediction_bias",
    "W_S": "score_scale",
    "B_S": "score_bias",
    "beta_use": "use_beta",
    "beta_ign": "ignore_beta",
    "compute_beta_use.weight": "use_kernel",
    "compute_beta_use.bias": "use_bias",
    "compute_beta_ign.weight": "ignore_kernel",
    "compute_beta_ign.bias": "ignore_bias",
}


def one_layer(inputs, meta, arrays, sizes, prefix=""):
    given = {
        ours: arrays[f"param/{prefix}{theirs}"] for theirs, ours in NAMES.items() if f"param/{prefix}{theirs}" in arrays
    }
    given |= {name: given[name].mT for name in ("use_kernel", "ignore_kernel") if name in given}
    if meta["iterations"] == 1:
        given = {name: part for name, part in given.items() if not name.startswith(("prediction", "score"))}
    layer = Heinsen2022Capsules(
        sizes["capsules_out"],
        sizes["dim_out"],
        iterations=meta["iterations"],
        normalize=meta["normalize"],
        variable_inputs=not sizes["fixed_inputs"],
    )
    options = {"return_ports": True}
    if "in/mask" in arrays:
        seen = ~torch.as_tensor(arrays["in/mask"]).bool()
        options["mask"] = seen.expand(len(inputs), *seen.shape[-2:])
    ports = called(layer, inputs, given, **options)
    return ports["out"], ports["credit"]


def through_layer(meta, arrays):
    if not meta.get("stack"):
        out, credit = one_layer(arrays["in/x"], meta, arrays, meta)
        return {"x": out, "phi": credit} if "out/phi" in arrays else {"x": out}
    value, credits = arrays["in/x"], []
    for number, sizes in enumerate(meta["layers"]):
        value, credit = one_layer(value, meta, arrays, sizes, f"{number}.")
        credits.append(credit)
    named = {f"phi{number}": credit for number, credit in enumerate(credits)}
    return {"x": value, **named, "credit": end_to_end_credit(credits, of_sample=False)}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files("heinsen2"), ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setitem(routing_layers.METHODS, "heinsen2", through_layer)
    assert check.check_layer(path).holds


@pytest.mark.parametrize("variable", [False, True])
def test_hidden_inputs_change_nothing(variable):
    layer = Heinsen2022Capsules(3, 4, variable_inputs=variable)
    inputs = torch.randn(2, 6, 5)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True, False, True, True, True, True]])
    expected = layer(inputs, mask=mask)
    other = torch.where(mask.unsqueeze(2), inputs, torch.randn(2, 6, 5))
    torch.testing.assert_close(layer(other, mask=mask), expected)
    torch.testing.assert_close(layer(other.numpy(), mask=mask.numpy()), expected)
    if variable:
        torch.testing.assert_close(layer(inputs[:1, :4]), expected[:1])


def test_a_mask_of_keras_arrives():
    inputs = torch.randn(2, 6, 5)
    inputs[:, 4:] = 0
    layer = Heinsen2022Capsules(3, 4, variable_inputs=True)
    model = keras.Sequential([keras.layers.Masking(), layer, keras.layers.Dense(2)])
    torch.testing.assert_close(model(inputs), model.layers[2](layer(inputs[:, :4])))


def test_a_map_is_listed_by_type_row_and_column():
    layer = Heinsen2022Capsules(3, 4)
    capsules = torch.randn(2, 3, 4, 2, 5)
    assert torch.equal(layer(capsules), layer(capsules.permute(0, 3, 1, 2, 4).flatten(1, 3)))


def test_it_starts_as_published():
    keras.utils.set_random_seed(0)
    layer = Heinsen2022Capsules(64, 256, variable_inputs=True)
    layer.build((None, None, 1024))
    expected = {
        "active_kernel": 2 / 32,
        "vote_scale": 1,
        "vote_kernel": 2 / 32,
        "prediction_kernel": 1 / 16,
        "prediction_scale": 1,
        "score_scale": 1 / 32,
        "use_kernel": 3**-0.5 / 32,
        "ignore_kernel": 3**-0.5 / 32,
    }
    for weight in layer.weights:
        deviation = weight.value.std(correction=0).item()
        if weight.name in expected:
            assert deviation == pytest.approx(expected[weight.name], rel=0.25), weight.name
        elif weight.name not in ("use_bias", "ignore_bias"):
            assert deviation == 0, weight.name


def test_his_heads_have_his_number_of_parameters():
    counts = []
    for capsules, dim, variable, shape in [
        (64, 1024, True, (None, None, 1024)),
        (64, 1024, False, (None, 64, 1024)),
        (10, 1, False, (None, 64, 1024)),
    ]:
        layer = Heinsen2022Capsules(capsules, dim, variable_inputs=variable)
        layer.build(shape)
        counts.append(layer.count_params())
    assert counts == [2491649, 2441280, 100938]


def test_without_routing_there_is_nothing_to_predict():
    made = {}
    for iterations in (0, 1):
        layer = Heinsen2022Capsules(3, 4, iterations=iterations)
        layer.build((None, 6, 5))
        layer.set_weights(made["weights"] if made else layer.get_weights())
        made = {"weights": layer.get_weights(), iterations: layer(torch.ones(2, 6, 5)), **made}
        assert not [weight.name for weight in layer.weights if weight.name.startswith(("prediction", "score"))]
    assert torch.equal(made[0], made[1])


def test_what_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(ArgumentError, match="iterations: must be greater than or equal to 0; received -1"):
        Heinsen2022Capsules(3, 4, iterations=-1)
    layer = Heinsen2022Capsules(3, 4, name="routed")
    for shape, message in [
        ((2, 7), r"routed takes a list of capsules .*; received shape \(2, 7\)"),
        ((2, None, 5), "each input has own weights, so their number must be known"),
        ([(2, 7, 5), (2, 7)], "routed takes capsules, and no activations"),
    ]:
        with pytest.raises(ShapeError, match=message):
            layer.compute_output_shape(shape)
    with pytest.raises(ShapeError, match=r"routed: mask must be \(2, 7\) or \(2, 7, 3\); received \(2, 6\)"):
        layer(torch.rand(2, 7, 5), mask=torch.ones(2, 6, dtype=torch.bool))
