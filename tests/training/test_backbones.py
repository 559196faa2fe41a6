"""Specs with a network of `keras.applications`; weights are random or in files made here, and nothing is downloaded."""

import keras
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from support.commands import refused

from encapkeras import build_model, check_spec, load_model
from encapkeras.callbacks import MetricsFile
from encapkeras.cli.main import main
from encapkeras.interop import export_model
from encapkeras.model.examine import examine_spec
from encapkeras.summary.cost import node_costs
from encapkeras.summary.node_table import node_table

TEXT = """\
spec: encapkeras/1
data: {dataset: digits, batch_size: 64, subset: 200}
model:
  nodes:
    trunk: {layer: keras.applications.MobileNet, inputs: image, alpha: 0.25, until: conv_pw_3_relu}
    pooled: {layer: keras.GlobalAveragePooling2D, inputs: trunk}
    scores: {layer: keras.Dense, inputs: pooled, units: $classes, activation: sigmoid}
  outputs: {classes: scores}
losses: {classes: {loss: margin}}
train:
  epochs: 2
  learning_rates: {trunk: 0.1}
  ema: {momentum: 0.9}
"""


class Killed(Exception):
    """The process ends here."""


TRUNK = "model.nodes.trunk"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Has the spec, and a file of weights for its network, and one of another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(TEXT)
    for name, alpha in (("trunk", 0.25), ("wider", 0.5)):
        make_network(alpha).save_weights(tmp_path / f"{name}.weights.h5")
    return tmp_path


def make_network(alpha):
    return keras.applications.MobileNet(weights=None, include_top=False, alpha=alpha, input_shape=(32, 32, 3))


def weights_of(model, layer):
    return {w.path.split("/", 1)[1]: w.numpy() for w in model.get_layer("trunk").network.get_layer(layer).weights}


def test_a_trained_network_needs_its_file_of_weights_no_more(folder):
    trained = [f"{TRUNK}.weights=trunk.weights.h5", f"{TRUNK}.trainable=[conv_pw_3*]"]
    words = [word for change in trained for word in ("--set", change)]
    assert main(["train", "mine.yaml", "--run-dir", "run", *words]) == 0
    first = build_model("mine.yaml", trained)
    (folder / "trunk.weights.h5").unlink()
    model = load_model(folder / "run/checkpoints/last.keras")
    for layer in ("conv1", "conv1_bn", "conv_dw_3", "conv_pw_3", "conv_pw_3_bn"):
        pairs = zip(weights_of(first, layer).values(), weights_of(model, layer).values(), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs) == ("pw_3" not in layer), layer
    assert len(model.get_layer("trunk").trainable_weights) == 3
    assert model.spec["model"]["nodes"]["trunk"]["weights"] == str(folder / "trunk.weights.h5")
    assert main(["evaluate", "run"]) == 0
    again = keras.models.clone_model(model)
    assert len(again.trainable_weights) == len(model.trainable_weights) == 5


def test_the_network_begins_with_its_file(folder):
    (folder / "specs").mkdir()
    (folder / "specs/mine.yaml").write_text(TEXT.replace("alpha", "weights: ../trunk.weights.h5, alpha"))
    model, network = build_model("specs/mine.yaml"), make_network(0.25)
    network.load_weights(folder / "trunk.weights.h5")
    ours = weights_of(model, "conv_pw_3").values()
    theirs = [weight.numpy() for weight in network.get_layer("conv_pw_3").weights]
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def same(*runs):
    """Whether the last weights and the metrics of two runs have the same bits."""
    files = [(run / "metrics.csv").read_bytes() for run in runs]
    weights = [load_model(run / "checkpoints/last.keras").get_weights() for run in runs]
    return files[0] == files[1] and all(map(np.array_equal, *weights))


def test_a_training_that_was_killed_ends_as_if_it_was_not(folder, monkeypatch):
    def kill(*arguments, **options):
        raise Killed

    words = ["mine.yaml", "--set", f"{TRUNK}.trainable=[conv_pw_3*]", "--set", "train.resume_state={minutes: 1e-9}"]
    words += ["--set", f"{TRUNK}.weights=trunk.weights.h5"]
    assert main(["train", *words, "--run-dir", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", kill)
        with pytest.raises(Killed):
            main(["train", *words, "--resume", "parts"])
    (folder / "trunk.weights.h5").rename("kept")  # the resume state has all weights
    assert main(["train", "--resume", "parts"]) == 0
    assert same(folder / "whole", folder / "parts")
    (folder / "kept").rename("trunk.weights.h5")
    plain = ["train", *words, "--set", "train.learning_rates=null", "--run-dir", "plain"]
    assert main(plain) == 0
    assert not same(folder / "whole", folder / "plain")


def test_networks_with_files_of_weights_are_compared(folder):
    words = ["--set", f"{TRUNK}.weights=trunk.weights.h5", "--set", "train.epochs=1"]
    assert main(["compare", "mine.yaml", *words, "--seeds", "1", "--run-dir", "both"]) == 0


def test_it_is_one_node_with_its_parameters_and_multiply_adds(folder):
    network = examine_spec("mine.yaml", [f"{TRUNK}.trainable=[conv_pw_3*]"])
    row = node_table(network)[0]
    part = make_network(0.25)
    part = keras.Model(part.input, part.get_layer("conv_pw_3_relu").output)
    assert (row.name, row.layer, row.output_shape) == ("trunk", "keras.applications.MobileNet", (8, 8, 32))
    assert row.weights == 32 * 32 + 2 * 32
    assert row.weights + row.fixed_weights == part.count_params()
    first = 16 * 16 * 8 * 27
    depthwise = 16 * 16 * 9 * 8 + 8 * 8 * 9 * 16 + 8 * 8 * 9 * 32
    pointwise = 16 * 16 * 8 * 16 + 8 * 8 * 16 * 32 + 8 * 8 * 32 * 32
    assert node_costs(network)["trunk"].multiply_adds == first + depthwise + pointwise


def test_exported_networks_give_the_same(folder):
    model = build_model("mine.yaml")
    images = np.random.default_rng(0).uniform(size=(3, 32, 32, 1)).astype("float32")
    for layer in model.get_layer("trunk").network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the next batch makes all statistics: outputs of random weights vanish without
    model(images, training=True)
    expected = model.predict(images, verbose=0)
    assert expected.std(0).min() > 1e-3
    export_model(model, folder / "network.pt2", "torch")
    program = torch.export.load(folder / "network.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(images)).detach(), expected, atol=1e-5)
    export_model(model, folder / "network.onnx", "onnx")
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    np.testing.assert_allclose(session.run(None, {"images": images})[0], expected, atol=1e-5)


def found(capsys, *changes):
    return refused(capsys, "check", "mine.yaml", *(word for change in changes for word in ("--set", change)))


def test_what_is_wrong_is_told_at_its_place(folder, capsys):
    wrong = TEXT.replace("alpha: 0.25, until: conv_pw_3_relu", "alpha: 0.25, weights: wider.weights.h5")
    wrong = wrong.replace("trunk: 0.1", "trunc: 0.1, s*: 2")
    (folder / "mine.yaml").write_text(wrong)
    errors = found(capsys)
    assert "mine.yaml:5:78  model.nodes.trunk.weights\n" in errors
    assert f"'{folder / 'wider.weights.h5'}' has the weights of another network" in errors
    assert "mine.yaml:12:20  train.learning_rates.trunc\n" in errors
    assert "no node matches 'trunc'. Did you mean 'trunk'?" in errors
    assert "2 errors found" in errors


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ("layer=keras.applications.mobilenet", "layer", "no network 'mobilenet'. Did you mean 'MobileNet'?"),
        ("layer=keras.applications.Inception_V5", "layer", "no network 'Inception_V5'. Did you mean"),
        ("layer=keras.applications.x", "layer", "no network 'x'. Allowed: ConvNeXtBase, "),
        ("weights=none.weights.h5", "weights", "there is no such file"),
        ("weights=mine.yaml", "weights", "must be imagenet, null or a file that Keras wrote"),
        ("until=conv_pw_33_relu", "until", "no layer 'conv_pw_33_relu'. Did you mean 'conv_pw_3_relu'?"),
        ("trainable=[conv_pw_4*]", "trainable", "with weights matches 'conv_pw_4*'"),
        ("trainable=[]", "trainable", "must not be empty"),
        ("minimalistic=true", "minimalistic", "'minimalistic' is not an argument of layer"),
        ("alpha=0", "alpha", "must be greater than 0"),
    ],
)
def test_wrong_values_are_told_at_their_place(folder, capsys, change, place, message):
    errors = found(capsys, f"{TRUNK}.{change}")
    assert f"{TRUNK}.{place}\n" in errors
    assert message in errors and "1 error found" in errors


def test_images_that_are_too_small_or_no_images(folder, capsys):
    errors = found(capsys, "data.image_size=31")
    assert "mine.yaml:5:5  model.nodes.trunk\n" in errors
    assert "takes images of at least 32 x 32; received 31 x 31. Set data.image_size to 32 or more" in errors
    capsules = "capsules: {layer: image_to_capsules, inputs: image, types: 1}"
    (folder / "mine.yaml").write_text(
        TEXT.replace("inputs: image", "inputs: capsules").replace("nodes:", f"nodes:\n    {capsules}")
    )
    errors = found(capsys)
    assert "'keras.applications.MobileNet' would not treat capsules" in errors


def test_other_layers_are_trained_whole_or_not_at_all(folder, capsys):
    errors = found(capsys, "model.nodes.scores.trainable=[kernel]")
    assert "model.nodes.scores.trainable\n" in errors
    assert "'trainable' is true or false for 'keras.Dense'" in errors


def test_a_frozen_network_with_random_weights_gets_a_warning(folder):
    def warnings(*changes):
        return [warning.message for warning in check_spec("mine.yaml", changes).warnings]

    assert "keeps random weights" in warnings(f"{TRUNK}.trainable=false")[0]
    assert not warnings() + warnings(f"{TRUNK}.trainable=false", f"{TRUNK}.weights=trunk.weights.h5")


def test_a_spec_that_is_written_to_another_folder_finds_its_file(folder, capsys):
    (folder / "mine.yaml").write_text(TEXT.replace("alpha", "weights: trunk.weights.h5, alpha"))
    (folder / "elsewhere").mkdir()
    assert main(["format", "mine.yaml", "-o", "elsewhere/mine.yaml"]) == 0
    spec = yaml.safe_load((folder / "elsewhere/mine.yaml").read_text())
    assert spec["model"]["nodes"]["trunk"]["weights"] == "../trunk.weights.h5"
    assert check_spec("elsewhere/mine.yaml")


def test_a_starter_with_a_network_of_keras(folder, capsys):
    words = ["--dataset", "digits", "--backbone", "mobilenet_v3_small", "--routing", "dynamic"]
    assert main(["new", "new.yaml", *words]) == 0
    spec = check_spec("new.yaml")
    assert spec.warnings == ()
    assert (spec.nodes[0].layer, spec.nodes[0].arguments["weights"]) == (
        "keras.applications.MobileNetV3Small",
        "imagenet",
    )
    assert spec.info.height == 96
    capsys.readouterr()
    assert "Did you mean 'MobileNetV3Small'?" in refused(capsys, "new", "-", *words[:3], "mobilnet_v3_smal")
    assert "Leave out one of them" in refused(capsys, "new", "-", *words, "--ot")


@pytest.mark.parametrize(
    ("routing", "size", "backbone"),
    [
        ("none", "small", "mobilenet"),
        ("master", "large", "vgg16"),
        ("approximate", "medium", "MobileNet"),
        ("em", "large", "VGG16"),
    ],
)
def test_starters_with_a_network_of_keras_have_no_errors(folder, routing, size, backbone):
    words = ["--dataset", "cifar10", "--routing", routing, "--size", size]
    assert main(["new", "new.yaml", *words, "--backbone", backbone]) == 0
    assert check_spec("new.yaml").warnings == ()
    assert all(len(line) <= 120 for line in (folder / "new.yaml").read_text().splitlines()[1:])
