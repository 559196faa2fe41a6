"""A plugin's data set has arguments of its own: in specs, in messages, in the schema and on the reference page."""

import json

import numpy as np
import pytest
import torch
import yaml
from support.commands import refused
from support.plugins import plugins_forgotten
from support.tiny_spec import tiny_spec

from encapkeras import check_spec, load_plugin
from encapkeras.cli.main import main
from encapkeras.data import DatasetInfo, DatasetReader, DataSettings, ImageArrays, load, register_dataset
from encapkeras.data.registry import path_arguments
from encapkeras.errors import DataError

PLUGIN = '''
from typing import Literal

import numpy as np
import pydantic

from encapkeras.data import DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset


@register_dataset("stripes")
class Stripes(DatasetReader):
    """Stripes of two kinds.

    Args:
        grey_levels: File of grey levels, one for each stripe.
        more: More such files.
        side: Height and width of the images.
        direction: Of the stripes of class 0.
    """

    def __init__(
        self,
        grey_levels: DataPath,
        more: list[DataPath] | None = None,
        side: pydantic.PositiveInt = 16,
        direction: Literal["across", "down"] = "across",
    ) -> None:
        self.levels = [np.loadtxt(file, ndmin=1) for file in [grey_levels, *(more or [])]]
        self.side, self.across = side, direction == "across"

    def describe(self):
        return DatasetInfo(self.side, self.side, 1, 2, ("across", "down"), 20)

    def read(self):
        rows = np.resize(np.concatenate(self.levels), self.side).astype("float32")[:, None]
        images = np.stack([np.repeat(rows, self.side, axis=1), np.repeat(rows.T, self.side, axis=0)] * 10)[..., None]
        labels = np.tile([0, 1] if self.across else [1, 0], 10)
        return ImageArrays(images, labels, images, labels)
'''


class GivenLabels(DatasetReader):
    """Images with these labels."""

    def describe(self):
        return DatasetInfo(8, 8, 1, 2, ("a", "b"), **self.more)

    def read(self):
        images = np.full((4 if len(self.labels) else 0, 8, 8, 1), 200, np.uint8)
        return ImageArrays(images, self.labels, images, self.labels)


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    """A folder with the plugin `stripes.py`, loaded, and a folder `specs` with the files that a spec there names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stripes.py").write_text(PLUGIN)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "levels.txt").write_text("0 0.5 1")
    (tmp_path / "specs" / "two.txt").write_text("0.25")
    with plugins_forgotten():
        load_plugin("stripes.py")
        yield


def spec_with(**data):
    """The file of a spec of this data set, with more keys in its section `data`."""
    content = {**tiny_spec(epochs=1), "data": {"dataset": "stripes", "validation": 0.5, **data}}
    with open("specs/mine.yaml", "w") as file:
        yaml.safe_dump(content, file)
    return "specs/mine.yaml"


def test_its_arguments_are_keys_of_the_section_data(tmp_path):
    spec = check_spec(spec_with(grey_levels="levels.txt", more=["two.txt"], side=20, direction="down"))
    folder = tmp_path / "specs"
    assert spec.data.arguments == {
        "grey_levels": str(folder / "levels.txt"),
        "more": [str(folder / "two.txt")],
        "side": 20,
        "direction": "down",
    }
    assert (spec.info.height, spec.resolved["data"]["side"]) == (20, 20)
    assert check_spec(spec.resolved) == spec
    images, labels = load(spec.data, seed=0).test.batch(0)
    np.testing.assert_allclose(images[0, :5, 0, 0], [0, 0.5, 1, 0.25, 0])
    assert labels[0] == 1


def test_they_can_be_set_from_the_command_line(capsys):
    file = spec_with(grey_levels="levels.txt")
    assert main(["check", file, "--plugin", "stripes.py", "--set", "data.side=24"]) == 0
    capsys.readouterr()
    message = refused(capsys, "check", file, "--plugin", "stripes.py", "--set", "data.side=-1")
    assert "data.side" in message
    assert "must be greater than 0; received -1" in message


@pytest.mark.parametrize(
    ("data", "path", "text"),
    [
        ({}, "data", "'stripes' needs 'grey_levels': file of grey levels, one for each stripe."),
        ({"grey_levels": 3}, "data.grey_levels", "must be a string; received 3"),
        ({"more": ["two.txt", 3]}, "data.more.1", "must be a string; received 3"),
        ({"direction": "up"}, "data.direction", "must be 'across' or 'down'; received 'up'"),
        ({"directoin": "down"}, "data.directoin", "Did you mean 'direction'?"),
        (
            {"zzz": 1},
            "data.zzz",
            "'zzz' is not an argument of data set 'stripes'. Allowed: affine, augment, balance, batch_size, ",
        ),
        ({"extra": True}, "data.extra", "'extra' is an argument of data set 'svhn', not of 'stripes': remove it"),
    ],
)
def test_each_wrong_argument_is_one_error_at_its_place(data, path, text, capsys):
    known = {"grey_levels": "levels.txt"} if data else {}
    message = refused(capsys, "check", spec_with(**{**known, **data}), "--plugin", "stripes.py")
    assert text in message
    assert f"  {path}\n" in message
    assert "1 error found" in message


def test_its_paths_follow_a_spec_to_another_folder(tmp_path, capsys):
    spec_with(grey_levels="levels.txt", more=["two.txt"], side=20)
    assert main(["format", "specs/mine.yaml", "--plugin", "stripes.py", "-o", "moved.json"]) == 0
    data = json.loads((tmp_path / "moved.json").read_text())["data"]
    assert data == {
        "dataset": "stripes",
        "grey_levels": "specs/levels.txt",
        "more": ["specs/two.txt"],
        "side": 20,
        "validation": 0.5,
    }


def test_paths_of_an_unknown_data_set_are_not_guessed(capsys):
    spec_with(grey_levels="levels.txt", dataset="strips")
    message = refused(capsys, "format", "specs/mine.yaml", "-o", "moved.json")
    assert "no data set is called 'strips'. Did you mean 'stripes'?" in message
    assert "--plugin" in message


def test_the_schema_and_the_reference_page_explain_its_arguments(tmp_path):
    assert main(["schema", "--plugin", "stripes.py", "-o", "mine.json"]) == 0
    text = (tmp_path / "mine.json").read_text()
    assert "Height and width of the images.\\n\\nA whole number above 0. Default: 16." in text
    assert main(["schema", "--plugin", "stripes.py", "--format", "markdown", "-o", "page.md"]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "| `direction` | `across` or `down` | `across` | Of the stripes of class 0. |" in page
    assert "### `stripes`" in page


BEFORE_DATA_PATH = '''
from encapkeras.data import DatasetReader, register_dataset


@register_dataset("plain_path")
class PlainPath(DatasetReader):
    """Written before there was DataPath.

    Args:
        path: A file.
        limit: How many images; None for all.
    """

    def __init__(self, path: str | None = None, limit: int | None = 10) -> None:
        self.path, self.limit = path, limit

    def describe(self):
        raise NotImplementedError

    def read(self):
        raise NotImplementedError
'''


@pytest.fixture
def plain_path(tmp_path):
    (tmp_path / "plain.py").write_text(BEFORE_DATA_PATH)
    load_plugin("plain.py")


@pytest.mark.usefixtures("plain_path")
def test_a_path_that_is_annotated_as_text_is_relative_to_the_spec_too():
    assert path_arguments("plain_path") == ["root", "path"]


@pytest.mark.usefixtures("plain_path")
def test_none_is_a_value_where_the_default_is_another():
    assert DataSettings(dataset="plain_path", limit=None).reader().limit is None
    assert DataSettings(dataset="plain_path").reader().limit == 10


def test_an_argument_of_a_data_set_that_is_not_given_is_none():
    settings = DataSettings(dataset="digits")
    assert (settings.path, settings.class_list) == (None, None)
    with pytest.raises(AttributeError, match="nonsense"):
        settings.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (np.zeros((4, 1)), {"classes_per_image": None}, r"train_labels: has shape \(4, 1\); it must be \(N, 2\)"),
        (np.zeros((4, 3)), {"classes_per_image": None}, r"train_labels: has shape \(4, 3\); it must be \(N, 2\)"),
        (np.full((4, 2), 7), {"classes_per_image": None}, "8 values other than 0 and 1, the first is 7"),
        (np.full((4, 2), 0.3), {"classes_per_image": None}, "8 values other than 0 and 1, the first is 0.3"),
        (np.full((4, 8, 8), 0.7), {"task": "segments"}, "gives masks of float64; classes are whole numbers"),
        (np.full(4, 0.7), {}, "gives labels of float64; classes are whole numbers"),
        (np.array([0, 1, 2, 1]), {}, r"train_labels: 1 label outside 0..1, the first is 2 at index 2"),
        (np.zeros((0, 2)), {"classes_per_image": None}, "gives no train_labels; training and test need"),
        (np.array([0, 1, 1]), {}, "gives 3 train_labels for 4 images; each needs one"),
    ],
)
def test_labels_that_are_not_as_described(labels, more, message):
    register_dataset("given_labels")(type("GivenLabels", (GivenLabels,), {"labels": labels, "more": more}))
    with pytest.raises(DataError, match=message):
        load(DataSettings(dataset="given_labels", validation=0), seed=0)


def test_labels_of_any_numbers_become_those_of_losses():
    every = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    for number, (labels, more, dtype) in enumerate(
        [(every, {"classes_per_image": None}, torch.float32), (every[:, 0].astype(np.uint8), {}, torch.int64)]
    ):
        cls = type("GivenLabels", (GivenLabels,), {"labels": labels, "more": more})
        register_dataset(f"given_{number}")(cls)
        splits = load(DataSettings(dataset=f"given_{number}", validation=0), seed=0)
        assert splits.train.labels.dtype == dtype
        assert splits.train.labels.tolist() == labels.tolist()


def test_labels_of_several_classes_are_refused(tmp_path):
    text = PLUGIN.replace('"stripes"', '"many"').replace("np.tile([0, 1] if", "np.tile([[0, 1], [1, 1]] if")
    (tmp_path / "many.py").write_text(text)
    load_plugin("many.py")
    with pytest.raises(DataError, match=r"'many' gives labels of shape \(2, 20\); .* one class for each image"):
        load(DataSettings(dataset="many", grey_levels="specs/levels.txt"), seed=0)
