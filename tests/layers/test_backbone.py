"""Networks of `keras.applications` as one layer. Nothing is downloaded: weights are random, or in files made here."""

import keras
import numpy as np
import pytest
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers.backbone import Backbone, application_names
from encapkeras.spec.keras_names import applications_in_source

SMALL = {"alpha": 0.25}  # of MobileNet
IMAGES = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))


def small(**arguments):
    return Backbone("MobileNet", **{**SMALL, **arguments})


def called(layer, images=IMAGES):
    return layer(images), layer


def whole(**arguments):
    """The same network as Keras makes it."""
    arguments = {"include_top": False, "weights": None, "input_shape": (32, 32, 3), **SMALL, **arguments}
    return keras.applications.MobileNet(**arguments)


def is_same(one, other, tolerance=1e-4):
    """Compares maps by their own scale: those of random weights vanish with the depth."""
    one, other = one.detach(), other.detach()
    scale = float(other.abs().max())
    assert scale > 0
    return bool(((one - other).abs().max() / scale) < tolerance)


@pytest.fixture
def file(tmp_path):
    """Weights as Keras saves them."""
    path = tmp_path / "small.weights.h5"
    whole().save_weights(path)
    return str(path)


def test_all_networks_of_keras_are_known():
    assert set(application_names()) == applications_in_source()
    assert {"MobileNetV3Small", "ResNet50", "EfficientNetB0"} <= set(application_names())


@pytest.mark.parametrize(
    ("name", "arguments", "mode"),
    [
        ("MobileNet", SMALL, "tf"),
        ("VGG16", {"until": "block1_conv2"}, "caffe"),
        pytest.param("DenseNet121", {"until": "conv1_relu"}, "torch", marks=pytest.mark.slow),
    ],
)
def test_images_from_0_to_1_are_preprocessed_as_the_network_does(name, arguments, mode):
    outputs, layer = called(Backbone(name, **arguments))
    expected = keras.applications.imagenet_utils.preprocess_input(255 * IMAGES.numpy(), mode=mode)
    assert is_same(outputs, layer.network(torch.from_numpy(expected.copy())))
    assert not is_same(outputs, layer.network(IMAGES))


@pytest.mark.parametrize("name", ["MobileNetV3Small", pytest.param("EfficientNetV2B0", marks=pytest.mark.slow)])
def test_networks_with_preprocessing_inside_take_images_to_255(name):
    outputs, layer = called(Backbone(name))
    assert is_same(outputs, layer.network(255 * IMAGES), tolerance=1e-7)


@pytest.mark.slow
def test_efficientnet_has_the_mean_and_deviation_of_imagenet():
    """Keras has them in weights, and divides by the deviation only where the weights are ImageNet's."""
    outputs, layer = called(Backbone("EfficientNetB0"))
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = next(each for each in network.layers if isinstance(each, keras.layers.Normalization))
    network.set_weights([*normalization.get_weights(), *layer.network.get_weights()])
    normalized = (IMAGES - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    expected = network(255 * normalized)
    assert is_same(outputs, expected)


def test_gray_images_are_repeated_for_three_channels():
    gray = IMAGES[..., :1]
    layer = small()
    assert is_same(layer(gray), layer(gray.expand(-1, -1, -1, 3)), tolerance=1e-7)
    assert bool((gray >= 0).all() and (gray <= 1).all())  # preprocessing has changed nothing in place


def test_a_part_of_the_network_ends_where_it_should():
    outputs, layer = called(small(until="conv_pw_11_relu"), torch.rand(1, 64, 64, 1))
    assert outputs.shape == (1, 4, 4, 128) == layer.compute_output_shape((1, 64, 64, 1))
    assert "conv_pw_12" not in [each.name for each in layer.network.layers]


def test_only_what_matches_is_trained_also_after_loading_and_thawing():
    layer = small(train_only=["conv_pw_1?", "*_13_bn"])
    layer.build((None, 32, 32, 3))

    def trained(layer):
        return {weight.path.rpartition("/")[0].rpartition("/")[2] for weight in layer.trainable_weights}

    expected = {"conv_pw_10", "conv_pw_11", "conv_pw_12", "conv_pw_13", "conv_dw_13_bn", "conv_pw_13_bn"}
    assert trained(layer) == expected
    layer.trainable = False
    assert not layer.trainable_weights and len(layer.non_trainable_weights) == len(layer.weights)
    layer.trainable = True
    assert trained(layer) == expected
    again = Backbone.from_config(layer.get_config())
    again.build((None, 32, 32, 3))
    assert trained(again) == expected


def test_frozen_batch_norms_stay_in_inference():
    layer = small(train_only=["conv_pw_13*"])
    inference = layer(IMAGES, training=False)
    before = {weight.path: weight.value.detach().clone() for weight in layer.non_trainable_weights}
    assert not is_same(layer(IMAGES, training=True), inference)  # by the one that is trained
    moved = [weight.path for weight in layer.non_trainable_weights if not before[weight.path].equal(weight.value)]
    assert {path.split("/")[-2] for path in moved} == {"conv_pw_13_bn"}
    layer.trainable = False
    assert is_same(layer(IMAGES, training=True), layer(IMAGES, training=False), tolerance=1e-7)


@pytest.mark.parametrize("until", [None, "conv_pw_5_relu"])
def test_a_file_of_keras_is_loaded(file, until):
    network = whole()
    network.load_weights(file)
    expected = keras.Model(network.input, network.get_layer(until).output if until else network.output)
    layer = small(weights=file, until=until)
    outputs = layer(IMAGES)
    layer.load_weights()
    images = torch.from_numpy(keras.applications.mobilenet.preprocess_input(255 * IMAGES.numpy()))
    assert is_same(layer(IMAGES), expected(images))
    assert not is_same(layer(IMAGES), outputs)


def write_download(path, network):
    """Writes weights as Keras' downloads have them: by layers in their order, under names that do not matter."""
    import h5py

    with h5py.File(path, "w") as file:
        names = [f"old_{i}" for i, _ in enumerate(network.layers)]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, layer in zip(names, network.layers, strict=True):
            group = file.create_group(name)
            paths = [f"{name}/{i}:0" for i, _ in enumerate(layer.weights)]
            group.attrs["weight_names"] = [each.encode() for each in paths]
            for each, value in zip(paths, layer.get_weights(), strict=True):
                group[each] = value


def test_a_downloaded_file_is_loaded(tmp_path):
    network = whole()
    write_download(tmp_path / "mobilenet_no_top.h5", network)
    layer = small(weights=str(tmp_path / "mobilenet_no_top.h5"))
    layer(IMAGES)
    layer.load_weights()
    for ours, theirs in zip(layer.network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_files_of_other_networks_name_what_differs(tmp_path):
    others = {"a.weights.h5": whole(alpha=0.5), "b.weights.h5": whole(include_top=True, classes=7)}
    for name, network in others.items():
        network.save_weights(tmp_path / name)
    write_download(tmp_path / "c.h5", others["a.weights.h5"])
    write_download(tmp_path / "d.h5", others["b.weights.h5"])
    messages = {}
    for name in ("a.weights.h5", "b.weights.h5", "c.h5", "d.h5"):
        layer = small(weights=str(tmp_path / name))
        layer.build((None, 32, 32, 3))
        with pytest.raises(ArgumentError) as error:
            layer.check_weights()
        messages[name] = str(error.value)
        assert error.value.argument == "weights"
    for name in ("a.weights.h5", "c.h5"):
        assert "another network than keras.applications.MobileNet" in messages[name]
        assert "'conv1' has 3x3x3x8, the file 3x3x3x16" in messages[name]
        assert "and 44 more" in messages[name] and len(messages[name]) < 2000
    for name in ("b.weights.h5", "d.h5"):
        assert "is not in the network" in messages[name] and "1 layer" in messages[name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.weights.h5", None, "there is no such file"),
        ("text.weights.h5", b"weights", "cannot be read as a file of weights"),
        ("text.h5", b"weights", "cannot be read as a file of weights"),
        ("model.keras", b"", r"\.weights\.h5 or \.h5"),
    ],
)
def test_files_that_are_none_are_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    layer = small(weights=str(tmp_path / name))
    layer.build((None, 32, 32, 3))
    with pytest.raises(ArgumentError, match=message):
        layer.check_weights()


def test_weights_of_imagenet_are_those_that_keras_downloads(monkeypatch):
    network, asked = whole(), []
    make = keras.applications.MobileNet

    def downloading(weights=None, **arguments):
        asked.append(weights)
        return network if weights == "imagenet" else make(weights=weights, **arguments)

    downloading.__signature__, downloading.__module__ = __import__("inspect").signature(make), make.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", downloading)
    layer = small(weights="imagenet")
    layer(IMAGES)
    layer.check_weights()
    assert asked == [None]
    layer.load_weights()
    assert asked == [None, "imagenet"]
    np.testing.assert_array_equal(layer.network.get_weights()[0], network.get_weights()[0])


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    make = keras.applications.MobileNet

    def offline(weights=None, **arguments):
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://...: no route to host")
        return make(weights=weights, **arguments)

    offline.__signature__, offline.__module__ = __import__("inspect").signature(make), make.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", offline)
    layer = small(weights="imagenet")
    layer(IMAGES)
    with pytest.raises(ArgumentError, match=r"cannot load the weights 'imagenet'.*no route to host.*the path of their"):
        layer.load_weights()


@pytest.mark.parametrize("shape", [(2, 31, 40, 3), (2, 64, 64, 2), (2, 64, 64), (2, 4, 4, 8, 8)])
def test_other_images_are_refused(shape):
    with pytest.raises(ShapeError, match=r"at least 32 x 32; received 31 x 40|\(batch, height, width, 1 or 3 "):
        small()(torch.rand(shape))


@pytest.mark.parametrize(
    ("name", "least"), [("Xception", 71), ("InceptionV3", 75), ("VGG16", 32), ("MobileNetV2", 32), ("ResNet50", 32)]
)
def test_the_least_size_is_told(name, least):
    with keras.device("meta"), pytest.raises(ShapeError, match=f"at least {least} x {least}; received 8 x 8"):
        Backbone(name).build((None, 8, 8, 1))


def test_arguments_that_a_network_lacks_are_refused():
    with pytest.raises(ArgumentError, match="ResNet50 takes no 'alpha'"):
        Backbone("ResNet50", alpha=0.5)
    with pytest.raises(ArgumentError, match="MobileNet takes no 'minimalistic'"):
        small(minimalistic=True)


def test_weights_are_not_loaded_before_there_are_any():
    with pytest.raises(ArgumentError, match="call it on images first"):
        small(weights="file.weights.h5").load_weights()


def test_names_and_patterns_that_match_nothing_are_refused():
    with pytest.raises(LookupError, match="Did you mean 'MobileNetV3Small'"):
        Backbone("mobilenet_v3_smal")
    with pytest.raises(ArgumentError, match="no layer 'conv_pw_14'") as error:
        small(until="conv_pw_14").build((None, 32, 32, 3))
    assert error.value.argument == "until"
    with pytest.raises(ArgumentError, match=r"with weights matches 'con_\*'") as error:
        small(train_only=["conv*", "con_*"]).build((None, 32, 32, 3))
    assert error.value.argument == "trainable"


def test_names_of_layers_do_not_depend_on_what_was_made_before():
    first, second = small(), small()
    for layer in (first, second):
        keras.layers.ReLU(), keras.layers.Activation("relu")
        layer.build((None, 32, 32, 3))
    assert [each.name for each in first.network.layers] == [each.name for each in second.network.layers]
    assert keras.layers.ReLU().name != keras.layers.ReLU().name


def test_keras_configuration_changes_nothing(monkeypatch):
    layer = small(dtype="float64")
    keras.config.set_image_data_format("channels_first")
    try:
        layer.build((None, 32, 32, 3))
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")
    assert layer(IMAGES.double()).dtype == torch.float64
    assert {weight.dtype for weight in layer.weights} == {"float64"}
    assert layer(IMAGES.double()).shape == (2, 1, 1, 256)


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    images = keras.Input((32, 32, 1))
    model = keras.Model(images, small(train_only=["conv_pw_13*"])(images))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    gray = IMAGES[..., :1]
    assert is_same(loaded(gray), model(gray), tolerance=1e-7)
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 3
