import pydantic
import pytest

from encapkeras.data import DATASETS, AugmentSettings, DatasetInfo, DatasetReader, DataSettings, register_dataset
from encapkeras.errors import ArgumentError
from encapkeras.validation import Checker


def problems(**values):
    return [(problem.path, problem.kind, problem.text) for problem in Checker(DataSettings).problems(values)]


def test_defaults_are_those_of_the_documentation():
    settings = DataSettings(dataset="digits")
    assert (settings.batch_size, settings.validation, settings.image_size, settings.augment) == (64, 0.1, None, None)


def test_every_built_in_data_set_is_registered_with_a_summary():
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "npz"} < set(DATASETS)
    assert {"image_folder", "small_norb", "h_imagenet"} < set(DATASETS)
    assert all(entry.summary for entry in DATASETS.values())


@pytest.mark.parametrize("model", [DataSettings, AugmentSettings])
def test_every_setting_is_described_for_editors(model):
    assert all(field.description for field in model.model_fields.values())


def test_an_unknown_data_set_gets_a_suggestion():
    [(path, _, text)] = problems(dataset="fashion_mnits")
    assert path == ("dataset",)
    assert "no data set is called 'fashion_mnits'. Did you mean 'fashion_mnist'?" in text


def test_the_data_set_must_be_named():
    assert problems(batch_size=3) == [(("dataset",), "missing", "'dataset' is missing")]


@pytest.mark.parametrize(
    ("values", "path", "text"),
    [
        ({"batch_size": 0}, ("batch_size",), "greater than 0; received 0"),
        ({"batch_size": True}, ("batch_size",), "must be an integer; received True"),
        ({"batch_size": "64"}, ("batch_size",), "must be an integer; received '64'"),
        ({"validation": 1.0}, ("validation",), "less than 1 or 'own'; received 1.0"),
        ({"validation": -0.1}, ("validation",), "received -0.1"),
        ({"validation": float("nan")}, ("validation",), "received nan"),
        ({"image_size": 0}, ("image_size",), "greater than 0"),
        ({"bach_size": 3}, ("bach_size",), "Did you mean 'batch_size'?"),
        ({"augment": {"hue": 0.6}}, ("augment", "hue"), "less than or equal to 0.5"),
        ({"augment": {"brightness": 1.5}}, ("augment", "brightness"), "less than or equal to 1"),
        ({"augment": {"miror": True}}, ("augment", "miror"), "Did you mean 'mirror'?"),
        ({"subset": 0}, ("subset",), "greater than 0"),
        ({"validation": "mine"}, ("validation",), "must be a number or 'own'"),
        ({"workers": -1}, ("workers",), "greater than or equal to 0"),
        ({"augment": {"cutout": -1}}, ("augment", "cutout"), "greater than or equal to 0"),
        ({"augment": {"crop": 1}}, ("augment", "crop"), "received 1"),
    ],
)
def test_each_wrong_setting_is_named(values, path, text):
    [(found_path, _, found_text)] = problems(dataset="digits", **values)
    assert found_path == path
    assert text in found_text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"dataset": "npz"}, "'npz' needs 'path'"),
        ({"dataset": "digits", "path": "a.npz"}, "data set 'digits' reads no single file: remove 'path'"),
        ({"dataset": "digits", "augment": {"crop": True}}, "nothing to cut off: set augment.resize to more than"),
        ({"dataset": "digits", "augment": {"crop": True, "resize": 32}}, "nothing to cut off"),
        ({"dataset": "digits", "augment": {"resize": 30}}, "augment.resize is 30, smaller than the images (32x32)"),
        ({"dataset": "digits", "augment": {"pad": 2}}, "set augment.crop: true"),
        ({"dataset": "digits", "augment": {"cutout": 33}}, "augment.cutout is 33, larger than the images (32x32)"),
        ({"dataset": "digits", "channels": 1}, "data set 'digits' has the channels that it has: remove 'channels'"),
        ({"dataset": "cifar10", "extra": True}, "data set 'cifar10' has no extra images: remove 'extra'"),
        ({"dataset": "digits", "class_list": "a"}, "has the classes that it has: remove 'class_list'"),
        ({"dataset": "digits", "boxes": "a"}, "has no boxes around its objects: remove 'boxes'"),
        ({"dataset": "small_norb", "channels": 3}, "data.channels must be 1 or 2; received 3"),
        ({"dataset": "image_folder", "root": "a", "channels": 2}, "data.channels must be 1 or 3; received 2"),
        ({"dataset": "npz", "path": "a.npz", "image_size": 20, "augment": {"resize": 8}}, "at least 20"),
    ],
)
def test_settings_that_do_not_go_together(values, text):
    [(path, _, found)] = problems(**values)
    assert path == ()
    assert text in found


def test_settings_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        DataSettings(dataset="digits").batch_size = 3


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_colour_jitter_needs_colour(channels):
    with pytest.raises(ArgumentError, match=r"augment\.saturation and augment\.hue .* these have"):
        AugmentSettings(saturation=0.1, hue=0.1).check(32, 32, channels)
    AugmentSettings(saturation=0.1, hue=0.1).check(32, 32, 3)


def test_a_data_set_of_ones_own_can_be_registered(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))

    @register_dataset("noise")
    class Noise(DatasetReader):
        """Random pixels."""

        def describe(self):
            return DatasetInfo(8, 8, 1, 2, ("one", "other"))

        def read(self):
            raise AssertionError("not read here")

    assert isinstance(DataSettings(dataset="noise").reader(), Noise)
    with pytest.raises(TypeError, match="registered already"):
        register_dataset("noise")(Noise)


def test_what_is_no_reader_or_takes_other_arguments_cannot_be_registered(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    with pytest.raises(TypeError, match="must be a DatasetReader"):
        register_dataset("wrong")(dict)

    class Folder(DatasetReader):
        """Reads a folder.

        Args:
            folder: The folder.
        """

        def __init__(self, folder: str) -> None:
            self.folder = folder

    with pytest.raises(
        TypeError, match="only 'root', 'path', 'class_list', 'boxes', 'channels' and 'extra' can be given"
    ):
        register_dataset("wrong")(Folder)
