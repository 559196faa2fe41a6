"""Models made from specs: ports, training in the user's own script, saving and loading."""

import copy
import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import yaml

import encapkeras
from encapkeras import EncapkerasError, SpecError, build_model, load_model, load_spec
from encapkeras.model.spec_model import SpecModel
from encapkeras.summary.node_table import node_table, parameters

CAPSULES = {
    "name": "small",
    "vars": {"types": 2},
    "data": {"dataset": "digits", "image_size": 8},
    "model": {
        "nodes": {
            "stem.first": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4, "strides": 2},
            "stage": {"layer": "capsule_stage", "inputs": "stem.first", "types": "$types", "dim": 4},
            "dropped": {"layer": "keras.Dropout", "inputs": "stage", "rate": 0.1},
            "digits": {"layer": "capsule_dense", "inputs": "dropped", "capsules": "$classes", "dim": 4},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {"classes": {"loss": "margin"}},
}

BRANCHED = {
    "name": "branched",
    "model": {
        "inputs": {"wide": [6], "image": [4, 4, 2]},
        "nodes": {
            "flat": {"layer": "keras.Flatten", "inputs": "image"},
            "both": {"layer": "keras.Concatenate", "inputs": ["flat", "wide"]},
            "zeta": {"layer": "keras.Dense", "inputs": "both", "units": 3, "dtype": "float32"},
            "alpha": {"layer": "keras.Dense", "inputs": "both", "units": 5},
        },
        "outputs": {"zeta": "zeta", "alpha": "alpha"},
    },
    "losses": {"zeta": {"loss": "cross_entropy", "weight": 0.5}, "alpha": {"loss": "margin"}},
}


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(6, 8, 8, 1)).astype("float32")


@pytest.fixture
def float_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def predicted(model, images):
    return model.predict(images, verbose=0)


def test_a_users_own_script(images, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(CAPSULES, sort_keys=False))
    model = encapkeras.build_model(file)
    assert isinstance(model, keras.Model)
    assert model(images).shape == (6, 10)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(images, np.arange(6), epochs=2, batch_size=3, verbose=0)
    assert len(history.history["loss"]) == 2
    assert predicted(model, images[:1]).shape == (1, 10)


def test_the_specs_own_losses(images):
    model = build_model(CAPSULES)
    model.compile(optimizer="sgd", loss=model.make_losses(), loss_weights=model.loss_weights)
    first, last = (model.fit(images, np.arange(6), epochs=8, verbose=0).history["loss"][i] for i in (0, -1))
    assert last < first


def test_several_inputs_and_outputs_are_maps():
    model = build_model(BRANCHED)
    data = {"image": np.ones((4, 4, 4, 2)), "wide": np.ones((4, 6))}
    assert {name: tensor.shape for name, tensor in model(data).items()} == {"alpha": (4, 5), "zeta": (4, 3)}
    model.compile(optimizer="sgd", loss=model.make_losses(), loss_weights=model.loss_weights)
    labels = {"zeta": np.arange(4) % 3, "alpha": np.arange(4)}
    logs = model.evaluate(data, labels, return_dict=True, verbose=0)
    outputs = model.predict(data, verbose=0)
    losses = model.make_losses()
    expected = {name: float(losses[name](labels[name], outputs[name])) for name in labels}
    assert logs["loss"] == pytest.approx(expected["alpha"] + 0.5 * expected["zeta"], rel=1e-5)
    assert logs["zeta_loss"] == pytest.approx(expected["zeta"], rel=1e-5)


def test_ports_make_other_models(images):
    model = build_model(CAPSULES)
    taps = keras.Model(model.port("image"), [model.port("stage/main"), model.port("stage"), model.port("stage/out")])
    main, out, same = taps(images)
    assert main.shape == out.shape == (6, 2, 2, 2, 4)
    np.testing.assert_array_equal(out.detach(), same.detach())
    with pytest.raises(EncapkerasError, match="'stage/main'"):
        model.port("stage/mian")


def test_a_model_knows_its_spec_and_its_classes():
    model = build_model(CAPSULES)
    assert model.spec == load_spec(CAPSULES).resolved
    assert model.class_names == tuple("0123456789")
    assert build_model(BRANCHED).class_names == ()


def test_the_node_table_sums_to_the_parameters():
    model = build_model(CAPSULES)
    rows = {row.name: row for row in node_table(model)}
    assert list(rows) == ["stem.first", "stage", "dropped", "digits", "lengths"]
    assert (rows["stem.first"].weights, rows["stem.first"].fixed_weights) == (9 * 4 + 4 + 8, 8)
    assert rows["stage"].inputs == ("stem.first",)
    assert rows["digits"].output_shape == (10, 4)
    assert parameters(model) == sum(weight.numpy().size for weight in model.trainable_weights)
    assert sum(row.fixed_weights for row in rows.values()) == sum(w.numpy().size for w in model.non_trainable_weights)


def test_saved_models_need_no_spec_and_keep_everything(images, tmp_path):
    model = build_model(CAPSULES)
    model.compile(optimizer="adam", loss=model.make_losses())
    model.fit(images, np.arange(6), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert isinstance(loaded, SpecModel)
    np.testing.assert_array_equal(predicted(loaded, images), predicted(model, images))
    assert (loaded.spec, loaded.class_names, loaded.name) == (model.spec, model.class_names, "small")
    assert loaded.get_config()["image_range"] == [0.0, 1.0]
    np.testing.assert_array_equal(loaded.optimizer.variables[2], model.optimizer.variables[2])
    loaded.fit(images, np.arange(6), verbose=0)


def test_keras_itself_loads_a_saved_model_once_the_layers_are_imported(tmp_path):
    path = tmp_path / "model.keras"
    build_model(CAPSULES).save(path)
    code = "import sys, encapkeras.layers, keras; print(type(keras.saving.load_model(sys.argv[1])).__name__)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "SpecModel\n", done.stderr


def test_frozen_layers_stay_frozen(images, tmp_path):
    spec = copy.deepcopy(CAPSULES)
    spec["model"]["nodes"]["digits"]["trainable"] = False
    model = build_model(spec)
    model.get_layer("stage").trainable = False
    model.get_layer("digits").trainable = True
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in model.layers]
    assert [layer.name for layer in loaded.layers if not layer.trainable] == ["stage"]
    model.trainable = False
    model.save(tmp_path / "frozen.keras")
    assert not load_model(tmp_path / "frozen.keras").trainable_weights


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
def test_dtype_policies_come_back(policy, images, tmp_path, float_policy):
    float_policy(policy)
    spec = copy.deepcopy(CAPSULES)
    spec["model"]["nodes"]["lengths"]["dtype"] = "float32"
    model = build_model(spec)
    model.save(tmp_path / "model.keras")
    float_policy("float32")
    loaded = load_model(tmp_path / "model.keras")
    assert keras.config.dtype_policy().name == "float32"
    names = [layer.dtype_policy.name for layer in loaded.layers]
    assert names == [layer.dtype_policy.name for layer in model.layers]
    assert set(names) == {policy, "float32"}
    assert loaded.dtype_policy == model.dtype_policy
    np.testing.assert_array_equal(predicted(loaded, images), predicted(model, images))


def test_a_quantized_model_comes_back(tmp_path):
    model = build_model(BRANCHED)
    model.get_layer("alpha").quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    data = {"image": np.ones((2, 4, 4, 2)), "wide": np.ones((2, 6))}
    np.testing.assert_array_equal(loaded.predict(data, verbose=0)["alpha"], model.predict(data, verbose=0)["alpha"])


def test_the_saved_configuration_is_the_resolved_spec(tmp_path):
    build_model(CAPSULES).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))["config"]
    assert config["spec"]["model"]["nodes"]["digits"]["capsules"] == 10
    assert load_spec(config["spec"]) == load_spec(CAPSULES)


def test_copies_and_pickles(images):
    model = build_model(CAPSULES)
    np.testing.assert_array_equal(predicted(copy.deepcopy(model), images), predicted(model, images))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(EncapkerasError, match="cannot be loaded"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(EncapkerasError, match="cannot be loaded"):
        load_model(tmp_path / "text.keras")
    build_model(BRANCHED).save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncapkerasError, match="cannot be loaded"):
        load_model(tmp_path / "cut.keras")


def test_the_order_of_nodes_is_the_same_in_every_process():
    code = "import encapkeras; print([n.name for n in encapkeras.load_spec('resnet14').nodes])"
    runs = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != b""


def test_the_same_seed_gives_the_same_weights(images):
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        models.append(build_model(CAPSULES))
    np.testing.assert_array_equal(predicted(models[0], images), predicted(models[1], images))


@pytest.mark.parametrize("spec", [CAPSULES, BRANCHED], ids=["capsules", "branched"])
def test_resolved_specs_read_as_themselves(spec, tmp_path):
    first = load_spec(spec)
    assert load_spec(first.resolved) == first
    assert load_spec(first) is first
    for name, text in {"a.yaml": yaml.safe_dump(first.resolved), "a.json": json.dumps(first.resolved)}.items():
        (tmp_path / name).write_text(text)
        assert load_spec(tmp_path / name).resolved == first.resolved


def test_a_loaded_spec_still_knows_its_places(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(CAPSULES, sort_keys=False).replace("filters: 4", "filters: 5"))
    with pytest.raises(SpecError) as caught:
        build_model(load_spec(file))
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(str(file), 14)]


def test_a_loaded_spec_can_be_overridden():
    assert load_spec(load_spec(CAPSULES), ["train.epochs=9"]).train.epochs == 9
