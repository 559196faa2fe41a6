"""State dicts that fit, and what is said of those that do not."""

import keras
import pytest
import torch
from support.weights import assert_same, fill, values

from encapkeras import build_model, load_model
from encapkeras.errors import ArgumentError, CheckpointError
from encapkeras.interop import load_original_state_dict, original_state_dict

SPEC = "capsnet_dynamic_digits"


@pytest.fixture(scope="module")
def network():
    """A network and its state dict, for tests that change neither."""
    model = build_model(SPEC)
    fill(model)
    return model, original_state_dict(model)


def refused(model, state_dict):
    before = values(model)
    with pytest.raises(CheckpointError) as error:
        load_original_state_dict(model, state_dict)
    assert_same(model, before)
    return str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "_orig_mod.", "model.module.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(network, prefix):
    model, state_dict = network
    other = build_model(SPEC)
    load_original_state_dict(other, {f"{prefix}{name}": tensor for name, tensor in state_dict.items()})
    assert_same(other, values(model))


def test_of_many_unknown_entries_some_are_named(network):
    model, state_dict = network
    tensor = torch.zeros(1)
    unknown = {f"\x1b[31m{number}{'x' * 500}": tensor for number in range(100_000)}
    message = refused(model, {**state_dict, **unknown})
    assert len(message) < 10_000
    assert "\\x1b[31m0xxx" in message and "\x1b" not in message
    assert "  ... and 99,950 more\n100,000 errors found; " in message


def test_names_of_compiled_parts_and_averaged_models_are_known(network):
    model, state_dict = network
    compiled, averaged = build_model(SPEC), build_model(SPEC)
    load_original_state_dict(compiled, {name.replace(".", "._orig_mod.", 1): t for name, t in state_dict.items()})
    wrapped = {f"module.{name}": tensor for name, tensor in state_dict.items()}
    load_original_state_dict(averaged, {"n_averaged": torch.tensor(3), **wrapped})
    assert_same(compiled, values(model))
    assert_same(averaged, values(model))


def test_a_prefix_on_some_names_is_no_prefix(network):
    model, state_dict = network
    mixed = {f"module.{name}" if "W" in name else name: tensor for name, tensor in state_dict.items()}
    message = refused(model, mixed)
    assert "module.cap_layer.W.weight: the network has no such tensor" in message


def test_counters_may_be_missing(network):
    model, state_dict = network
    other = build_model(SPEC)
    load_original_state_dict(other, {n: tensor for n, tensor in state_dict.items() if "num_batches" not in n})
    assert_same(other, values(model))


def test_counters_are_those_of_warm_batch_norms(network):
    _, usual = network
    model, other = (build_model(SPEC, ["model.defaults.conv_bn_relu.moving_average=warm"]) for _ in range(2))
    (counter,) = [weight for weight in model.weights if weight.name == "norm_count"]
    counter.assign(3)
    state_dict = original_state_dict(model)
    assert list(state_dict) == list(usual)
    assert {name: int(t) for name, t in state_dict.items() if "num_batches" in name} == {
        "tranfer_bn.num_batches_tracked": 3,
        "tranfer_bn1.num_batches_tracked": 0,
    }
    assert state_dict["tranfer_bn.num_batches_tracked"].dtype == torch.int64
    load_original_state_dict(other, state_dict)
    assert_same(other, values(model))
    load_original_state_dict(model, {name: tensor for name, tensor in usual.items() if "num_batches" not in name})
    assert int(counter) == 10
    message = refused(model, {**usual, "tranfer_bn.num_batches_tracked": torch.tensor(-1)})
    assert "tranfer_bn.num_batches_tracked: is below 0" in message
    message = refused(model, {**usual, "tranfer_bn.num_batches_tracked": None})
    assert message.count("tranfer_bn.num_batches_tracked: is not a tensor; received NoneType") == 1


def test_parameters_and_other_memory_layouts_are_fine(network):
    model, state_dict = network
    other = build_model(SPEC)
    strided = {n: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in state_dict.items()}
    floating = {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in strided.items()}
    load_original_state_dict(other, floating)
    assert_same(other, values(model))


def test_a_loaded_model_takes_weights_too(network, tmp_path):
    model, state_dict = network
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    fill(loaded, seed=1)
    load_original_state_dict(loaded, state_dict)
    assert_same(loaded, values(model))


@pytest.mark.usefixtures("double_precision")
def test_float32_goes_into_float64_and_back(network):
    _, state_dict = network
    double = build_model(SPEC)
    load_original_state_dict(double, state_dict)
    out = original_state_dict(double)
    assert out["cap_layer.W.weight"].dtype == torch.float64
    assert all(torch.equal(out[name].to(tensor.dtype), tensor) for name, tensor in state_dict.items())


def test_float64_rounds_into_float32(network):
    _, state_dict = network
    double = {
        name: tensor.double() + 1e-9 if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()
    }
    other = build_model(SPEC)
    load_original_state_dict(other, double)
    received = original_state_dict(other)
    assert all(torch.equal(received[n], t.float()) for n, t in double.items() if t.is_floating_point())


def test_mixed_precision_keeps_float32_weights(network):
    _, state_dict = network
    keras.config.set_dtype_policy("mixed_float16")
    try:
        other = build_model(SPEC)
    finally:
        keras.config.set_dtype_policy("float32")
    load_original_state_dict(other, state_dict)
    assert all(torch.equal(tensor, state_dict[n]) for n, tensor in original_state_dict(other).items())


def test_all_mistakes_are_said_at_once_and_nothing_is_loaded(network):
    model, state_dict = network
    wrong = {
        **state_dict,
        "tranfer_conv.bias": torch.zeros(3),
        "tranfer_bn.weight": [1.0, 2.0],
        "tranfer_bn.bias": torch.zeros(64, dtype=torch.int64),
        "tranfer_bn.running_var": torch.full((64,), torch.nan),
        "tranfer_bn.num_batches_tracked": None,
        "tranfer_conv1.bias": torch.zeros(128, dtype=torch.complex64),
        "tranfer_bn1.weight": torch.full((128,), 1e300, dtype=torch.float64),
        "tranfer_bn1.bias": torch.zeros(128).to_sparse(),
        "tranfer_bn1.running_mean": torch.zeros(128, device="meta"),
        "tranfer_bn1.running_var": torch.full((128,), -1e-3),
        "fc.weight": torch.zeros(1),
        "": torch.zeros(1),
        3: torch.zeros(1),
    }
    del wrong["cap_layer.W.bias"]
    assert refused(model, wrong).splitlines() == [
        "the state dict does not fit network 'capsnet_dynamic_digits':",
        "  tranfer_conv.bias: has shape (3,); the network needs (64,)",
        "  tranfer_bn.weight: is not a tensor; received list",
        "  tranfer_bn.bias: has dtype torch.int64; the network needs floating-point numbers",
        "  tranfer_bn.running_var: has numbers that are not finite in float32",
        "  tranfer_conv1.bias: has dtype torch.complex64; the network needs floating-point numbers",
        "  tranfer_bn1.weight: has numbers that are not finite in float32",
        "  tranfer_bn1.bias: is not a plain array of numbers (layout torch.sparse_coo, device cpu)",
        "  tranfer_bn1.running_mean: is not a plain array of numbers (layout torch.strided, device meta)",
        "  tranfer_bn1.running_var: has variances below 0",
        "  cap_layer.W.bias: missing; the network needs shape (2560,)",
        "  tranfer_bn.num_batches_tracked: is not a tensor; received NoneType",
        "  fc.weight: the network has no such tensor",
        "  : the network has no such tensor",
        "  3: the network has no such tensor",
        "14 errors found; 4 of the 14 tensors of the network are valid. Nothing was loaded.",
    ]


def test_numbers_of_8_bits_go_in(network):
    _, state_dict = network
    small = {n: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for n, t in state_dict.items()}
    other = build_model(SPEC)
    load_original_state_dict(other, small)
    received = original_state_dict(other)
    assert all(torch.equal(received[n], t.float()) for n, t in small.items() if t.is_floating_point())
    wrong = {**small, "tranfer_bn.running_var": -small["tranfer_bn.running_var"].float()}
    wrong = {n: t.to(torch.float8_e5m2) if t.is_floating_point() else t for n, t in wrong.items()}
    assert "tranfer_bn.running_var: has variances below 0" in refused(other, wrong)


def test_parameters_without_numbers_are_listed(network):
    model, state_dict = network
    wrong = {**state_dict, "tranfer_conv.bias": torch.nn.UninitializedParameter(), "more": torch.zeros(1)}
    message = refused(model, wrong)
    assert "  tranfer_conv.bias: has no values yet; received UninitializedParameter\n" in message
    assert "  more: the network has no such tensor\n" in message


def test_a_model_that_holds_no_numbers_takes_none(network):
    with keras.device("meta"):
        model = build_model(SPEC)
    with pytest.raises(ArgumentError, match='is on the device "meta", where weights have no values'):
        load_original_state_dict(model, network[1])


def test_one_mistake_is_one(network):
    model, state_dict = network
    message = refused(model, {**state_dict, "more": torch.zeros(1)})
    assert message.endswith("1 error found; 14 of the 14 tensors of the network are valid. Nothing was loaded.")


def test_units_that_the_spec_has_not_are_explained():
    with_unit = original_state_dict(build_model("encapnet_ot_digits"))
    message = refused(build_model("encapnet_digits"), with_unit)
    assert "  module3_ot_loss.G_net.0.weight: the network has no such tensor\n" in message
    assert "module3_ot_loss, module4_ot_loss: the spec needs an optimal_transport loss for each" in message
    alone = {name: value for name, value in with_unit.items() if "_ot_loss" not in name}
    load_original_state_dict(build_model("encapnet_digits"), alone)


def test_a_checkpoint_of_another_network_names_what_is_missing(network):
    model, _ = network
    message = refused(model, original_state_dict(build_model("resnet14")))
    assert "layer1.0.conv1.weight: the network has no such tensor" in message
    assert message.endswith("0 of the 14 tensors of the network are valid. Nothing was loaded.")


@pytest.mark.parametrize("state_dict", [None, [1], "path.pth"])
def test_a_state_dict_is_a_map(network, state_dict):
    with pytest.raises(ArgumentError, match="a state dict is a map of tensors by name; received"):
        load_original_state_dict(network[0], state_dict)


@pytest.mark.parametrize("model", [None, keras.Sequential([keras.layers.Dense(2)])])
def test_models_come_from_specs(model):
    with pytest.raises(ArgumentError, match="make the model with encapkeras"):
        original_state_dict(model)
    with pytest.raises(ArgumentError, match=f"Received {type(model).__name__}"):
        load_original_state_dict(model, {})
