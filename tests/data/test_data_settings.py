import inspect
import re
from pathlib import Path

import numpy as np
import pydantic
import pytest

from encapkeras.data import (
    DATASETS,
    AugmentSettings,
    DataPath,
    DatasetInfo,
    DatasetReader,
    DataSettings,
    register_dataset,
)
from encapkeras.data.registry import COMMON_SETTINGS, path_arguments
from encapkeras.errors import ArgumentError
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.validation import Checker


def problems(**values):
    return [(problem.path, problem.kind, problem.text) for problem in Checker(DataSettings).problems(values)]


def test_numbers_of_numpy_and_paths_are_taken():
    settings = DataSettings(
        dataset="image_folder", root=Path("photos"), batch_size=np.int64(8), augment={"brightness": np.float32(0.5)}
    )
    plain = {"root": "photos", "batch_size": 8}
    assert {name: getattr(settings, name) for name in plain} == plain
    assert settings.augment.brightness == 0.5
    assert type(settings.batch_size) is int and type(settings.root) is str


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataSettings(dataset="digits", batch_size="x"), "batch_size: must be an integer; received 'x'"),
        (lambda: DataSettings(dataset="digits", batch=3), "'batch' is not an argument of data set 'digits'"),
        (lambda: AugmentSettings(resize=-1), "resize: must be greater than 0; received -1"),
        (lambda: TrainSettings(optimizer={"kind": "adam", "epsilon": -1}), "optimizer.epsilon: must be greater than 0"),
    ],
)
def test_wrong_settings_in_python_are_argument_errors(make, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        make()


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
        ({"augment": {"crop": True}}, "nothing to crop: set augment.resize to more than"),
        ({"augment": {"crop": True, "resize": 32}}, "nothing to crop"),
        ({"augment": {"resize": 30}}, "augment.resize is 30, smaller than the images (32x32)"),
        ({"augment": {"pad": 2}}, "set augment.crop: true"),
        ({"augment": {"cutout": 33}}, "augment.cutout is 33, larger than the images (32x32)"),
        ({"dataset": "npz", "path": "a.npz", "image_size": 20, "augment": {"resize": 8}}, "at least 20"),
    ],
)
def test_settings_that_do_not_go_together(values, text):
    [(path, _, found)] = problems(**{"dataset": "digits", **values})
    assert path == ()
    assert text in found


@pytest.mark.parametrize(
    ("values", "key", "kind", "text"),
    [
        ({"dataset": "npz"}, "path", "missing", "data set 'npz' needs 'path': the file."),
        (
            {"dataset": "digits", "path": "a.npz"},
            "path",
            "unknown",
            "'path' is an argument of data set 'csv' or 'npz', not of 'digits': remove it",
        ),
        (
            {"dataset": "cifar10", "channels": 1},
            "channels",
            "unknown",
            "'channels' is an argument of data set 'h_imagenet' or 'image_folder' or 'mask_folder' or 'small_norb', "
            "not of 'cifar10': remove it",
        ),
        (
            {"dataset": "svhn", "extar": True},
            "extar",
            "unknown",
            "'extar' is not an argument of data set 'svhn'. Did you mean 'extra'?",
        ),
        (
            {"dataset": "svhn", "zzz": 3},
            "zzz",
            "unknown",
            "'zzz' is not an argument of data set 'svhn'. Allowed: affine, augment, balance, batch_size, dataset, "
            "extra, image_size, overlap, root, subset, validation, workers.",
        ),
        ({"dataset": "svhn", "extra": 1}, "extra", "value", "must be a boolean; received 1"),
        ({"dataset": "small_norb", "channels": 3}, "channels", "value", "must be 1 or 2; received 3"),
        ({"dataset": "image_folder", "root": "a", "channels": 2}, "channels", "value", "must be 1 or 3; received 2"),
        ({"dataset": "image_folder", "root": 3}, "root", "value", "must be a string; received 3"),
    ],
)
def test_the_arguments_of_a_data_set_are_checked_like_those_of_a_layer(values, key, kind, text):
    assert problems(**values) == [((key,), kind, text)]


def test_all_that_is_wrong_with_arguments_and_settings_is_found_at_once():
    found = problems(dataset="h_imagenet", batch_size=0, boxes=3, channels=2, extra=True, augment={"hue": 1})
    assert {path for path, _, _ in found} == {
        ("batch_size",),
        ("boxes",),
        ("channels",),
        ("extra",),
        ("augment", "hue"),
    }


def test_an_unknown_key_beside_an_unknown_data_set_is_found_too():
    found = problems(dataset="digit", extra=True, bach_size=3)
    assert {path for path, _, _ in found} == {("dataset",), ("bach_size",)}


def test_arguments_are_kept_in_the_order_of_the_reader_behind_the_data_set():
    settings = DataSettings(batch_size=8, channels=1, class_list="a.txt", root="b", dataset="h_imagenet")
    assert settings.arguments == {"root": "b", "channels": 1, "class_list": "a.txt"}
    dumped = settings.model_dump(mode="json", exclude_none=True)
    assert list(dumped) == ["dataset", "root", "class_list", "channels", "batch_size", "validation", "balance"]
    assert DataSettings(**dumped) == settings != DataSettings(**{**dumped, "channels": 3})
    reader = settings.reader()
    assert (reader.root, reader.class_list, reader.boxes, reader.channels) == ("b", "a.txt", None, 1)


def test_an_argument_that_is_not_set_is_as_if_it_were_not_given():
    """A spec may name the argument of a data set that another file, or the command line, replaces."""
    assert DataSettings(dataset="digits", path=None, extra=False) == DataSettings(dataset="digits")
    assert DataSettings(dataset="svhn", extra=False).arguments == {"extra": False}
    assert DataSettings(dataset="digits", root="a").arguments == {"root": "a"}


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
    with pytest.raises(TypeError, match="already registered"):
        register_dataset("noise")(Noise)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))


class Folder(DatasetReader):
    """Reads files.

    Args:
        files: The files.
        batch_size: Of something else.
    """

    def describe(self):
        return DatasetInfo(8, 8, 1, 2, ("one", "other"))

    def read(self):
        raise AssertionError("not read here")


def taking(annotation, name="files"):
    def __init__(self, **values):
        self.values = values

    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    __init__.__signature__ = inspect.Signature([inspect.Parameter("self", parameter.POSITIONAL_ONLY), parameter])
    __init__.__annotations__ = {name: annotation}
    return type("Own", (Folder,), {"__doc__": Folder.__doc__, "__init__": __init__})


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (dict, "must be a DatasetReader"),
        (lambda: None, "must be a DatasetReader"),
        (taking(int, "batch_size"), "'batch_size' needs another name"),
        (taking(int, "other"), "'other' has no line in the docstring"),
        (taking(list[Path]), "'files' is a path of pathlib, and specs hold strings: annotate it with"),
    ],
)
def test_what_is_no_data_set_cannot_be_registered(cls, text, own_registry):
    with pytest.raises(TypeError, match=text):
        register_dataset("own")(cls)
    assert "own" not in DATASETS


def test_the_names_of_common_settings_are_reserved():
    assert set(COMMON_SETTINGS) == set(DataSettings.model_fields) - {"root"}


def test_a_path_may_be_optional_or_in_a_list(own_registry):
    register_dataset("own")(taking(list[DataPath] | None))
    assert path_arguments("own") == ["root", "files"]
    assert path_arguments("h_imagenet") == ["root", "class_list", "boxes"]
    assert {"root", "path", "test_path", "class_list", "boxes", "labels", "files"} == set(path_arguments("unknown"))
