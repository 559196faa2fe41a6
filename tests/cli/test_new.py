"""`encapkeras new`: starter specs have no errors, whatever the images."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from support.commands import refused
from support.dataset_files import write_image_folder

from encapkeras import check_spec, load_spec
from encapkeras.cli.main import main
from encapkeras.data import DataSettings
from encapkeras.editor.starter import TEMPLATES, starter_spec
from encapkeras.spec.spec_files import installed_schema

ROUTINGS = ("none", "master", "approximate", "dynamic", "em")
SIZES = ("small", "medium", "large")
OPTIONS = list(itertools.product(ROUTINGS, SIZES, (False, True)))
PAIRWISE = [  # any two of routing, size and side loss
    (routing, size, (row + column) % 2 == 1)
    for row, routing in enumerate(ROUTINGS)
    for column, size in enumerate(SIZES)
]

# Images, their channels, and how many of how many classes.
OWN = [
    (1, 1, 1, 4, 2),
    (2, 3, 2, 8, 3),
    (7, 7, 1, 200, 2),
    (28, 28, 1, 30, 10),
    (31, 33, 3, 40, 4),
    (224, 224, 3, 4, 2),
]
OWN += [(100, 30, 1, 10, 2), (129, 17, 4, 1000, 100), (5, 64, 3, 20, 2), (60, 80, 3, 4, 2)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_images(file, height, width, channels, count, classes):
    images, labels = np.zeros((count, height, width, channels), np.uint8), np.arange(count) % classes
    np.savez_compressed(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def new(capsys, *words):
    assert main(["new", *map(str, words)]) == 0
    return capsys.readouterr().out


def check(tmp_path, data, routing, size, ot):
    text = starter_spec("mine", DataSettings(**data), "mine.yaml", routing=routing, size=size, ot=ot)
    (tmp_path / "mine.yaml").write_text(text)
    spec = check_spec("mine.yaml")
    assert spec.warnings == ()
    assert bool(spec.side_losses) == ot
    assert all(len(line) <= 120 for line in text.splitlines()[1:])
    assert not any(line != line.rstrip() or "@" in line for line in text.splitlines())
    return spec


@pytest.mark.parametrize("options", OPTIONS[1::3], ids=str)
def test_some_starters_have_no_errors_and_no_warnings(options, tmp_path):
    check(tmp_path, {"dataset": "digits"}, *options)


@pytest.mark.parametrize(("size", "options"), list(zip(OWN, OPTIONS[::3], strict=True)), ids=str)
def test_starters_fit_images_of_any_size(size, options, tmp_path):
    write_images("own.npz", *size)
    spec = check(tmp_path, {"dataset": "npz", "path": "own.npz"}, *options)
    assert (spec.info.height, spec.info.width, spec.info.channels, spec.info.classes) == (*size[:3], size[4])


@pytest.mark.slow
@pytest.mark.parametrize("options", PAIRWISE, ids=str)
@pytest.mark.parametrize(
    "dataset", ["affnist", "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "small_norb", "svhn", "npz"]
)
def test_all_starters_have_no_errors_and_no_warnings(dataset, options, tmp_path):
    data = {"dataset": dataset}
    if dataset == "npz":
        write_images("own.npz", 45, 60, 3, 300, 7)
        data["path"] = "own.npz"
    check(tmp_path, data, *options)


def test_digits_are_moved_and_not_mirrored(tmp_path, capsys):
    new(capsys, "mine.yaml", "--dataset", "affnist")
    assert "augment: {pad: 6, crop: true}" in (tmp_path / "mine.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_small_starter_learns(routing, capsys):
    new(capsys, "mine.yaml", "--dataset", "digits", "--routing", routing, "--ot", "--image-size", "16")
    assert main(["train", "mine.yaml", "--set", "train.epochs=6", "--run-dir", "run"]) == 0
    with open("run/results.json") as file:
        assert json.load(file)["test_accuracy"] > 0.5


def test_the_file_says_what_it_is_for(tmp_path, capsys):
    printed = new(capsys, "mine.yaml", "--dataset", "cifar10", "--routing", "dynamic", "--size", "large", "--ot")
    assert printed.startswith("wrote mine.yaml: ")
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(
        f"# yaml-language-server: $schema={installed_schema()}\n"
        "# A large network for cifar10: images of 32x32x3, 10 classes.\n"
    )
    assert "#   encapkeras train mine.yaml " in text
    assert "\nname: mine\n" in text
    spec = check_spec("mine.yaml")
    assert spec.name == "mine"
    assert {node.layer for node in spec.nodes} >= {"image_to_capsules", "dynamic_capsules"}
    assert [loss.weight for loss in spec.side_losses] == [1]
    assert spec.data.augment.mirror


def test_short_trainings_augment_nothing_and_long_ones_do_no_harm(tmp_path):
    assert check(tmp_path, {"dataset": "cifar10"}, "master", "small", False).data.augment is None
    svhn = check(tmp_path, {"dataset": "svhn"}, "master", "medium", False)
    assert (svhn.data.augment.crop, svhn.data.augment.mirror) == (True, False)


def test_a_dash_prints_the_spec(capsys, tmp_path):
    text = new(capsys, "-", "--dataset", "digits")
    assert "name: digits-approximate\n" in text
    assert list(tmp_path.iterdir()) == []


def test_paths_begin_at_the_spec(tmp_path, capsys):
    (tmp_path / "specs").mkdir()
    write_images("own images.npz", 8, 8, 1, 40, 2)
    for path in ("own images.npz", str(tmp_path / "own images.npz")):
        new(capsys, "specs/mine.yml", "--dataset", "npz", "--path", path, "--overwrite")
        assert check_spec("specs/mine.yml").data.path == str(tmp_path / "own images.npz")
    assert 'path: "../own images.npz"' not in (tmp_path / "specs" / "mine.yml").read_text()
    new(capsys, "mine.yaml", "--dataset", "npz", "--path", "own images.npz", "--image-size", "20")
    spec = check_spec("mine.yaml")
    assert (spec.data.image_size, spec.data.batch_size, spec.data.validation) == (20, 8, 0.1)


def test_the_name_of_a_file_becomes_one_of_a_network(capsys):
    new(capsys, "größer & 1e3  # x.yaml", "--dataset", "digits")
    assert check_spec("größer & 1e3  # x.yaml").name == "gr--er - 1e3  - x"
    assert "#   encapkeras train 'größer & 1e3  # x.yaml' " in Path("größer & 1e3  # x.yaml").read_text()


def test_names_that_occur_in_templates_stay_as_they_are(tmp_path, capsys):
    write_images("stage3.npz", 8, 8, 1, 40, 2)
    new(capsys, "conv3.yaml", "--dataset", "npz", "--path", "stage3.npz", "--routing", "dynamic")
    new(capsys, "stage4.yaml", "--dataset", "npz", "--path", "stage3.npz")
    for name in ("conv3", "stage4"):
        spec = check_spec(f"{name}.yaml")
        assert (spec.name, spec.data.path) == (name, str(tmp_path / "stage3.npz"))
        assert f"#   encapkeras train {name}.yaml " in Path(f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["none", "stages", "dynamic", "em"])
def test_templates_are_valid_specs_themselves(name):
    spec = check_spec(TEMPLATES / f"{name}.yaml")
    assert spec.warnings == ()
    assert spec.side_losses


@pytest.mark.parametrize("size", SIZES)
def test_starters_differ_only_behind_their_convolutions(size, tmp_path):
    specs = [check(tmp_path, {"dataset": "svhn"}, routing, size, True).resolved for routing in ROUTINGS]
    trunks = []
    for spec in specs:
        nodes = spec["model"]["nodes"]
        trunk = {name: node for name, node in nodes.items() if name.startswith("conv")}
        inputs = {name for node in (nodes.keys() - trunk.keys()) for name in np.ravel(nodes[node]["inputs"])}
        assert inputs & trunk.keys() == {list(trunk)[-1]}
        trunks.append((trunk, spec["data"], spec["losses"], spec["train"]))
    assert trunks == trunks[:1] * len(ROUTINGS)


def test_names_are_never_echoed_raw(capsys):
    printed = new(capsys, "a\x1b[31m.yaml", "--dataset", "digits")
    assert "\x1b" not in printed + Path("a\x1b[31m.yaml").read_text()
    assert "\x1b" not in refused(capsys, "new", "a\x1b[31m.yaml", "--dataset", "digits")
    assert "\x1b" not in refused(capsys, "format", "a\x1b[31m.yaml", "-o", "b\x1b[31m.txt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["there.yaml", "--dataset", "digits"], "'there.yaml' already exists. Name another file, or replace it with"),
        (["none/a.yaml", "--dataset", "digits"], "'none' is not a folder. Create it first."),
        (["folder.yaml", "--dataset", "digits"], "'folder.yaml' is a folder."),
        (["a.json", "--dataset", "digits"], "'encapkeras format' converts it to .json"),
        (["a.yaml", "--dataset", "digit"], "--dataset: no data set is called 'digit'. Did you mean 'digits'?"),
        (["a.yaml", "--dataset", "npz"], "'npz' needs 'path'"),
        (["a.yaml", "--dataset", "npz", "--path", "none.npz"], "none.npz: there is no such file"),
        (
            ["a.yaml", "--dataset", "digits", "--path", "a.npz"],
            "--path: 'path' is an argument of data set 'csv' or 'npz'",
        ),
        (["a.yaml", "--dataset", "digits", "--image-size", "0"], "--image-size: must be greater than 0; received 0"),
        (["a.yaml", "--dataset", "digits", "--routing", "eb"], "invalid choice: 'eb'"),
        (["a.yaml"], "--dataset"),
    ],
)
def test_what_cannot_be_written_is_said(words, message, tmp_path, capsys):
    (tmp_path / "there.yaml").write_text("mine: 1\n")
    (tmp_path / "folder.yaml").mkdir()
    assert message in refused(capsys, "new", *words)
    assert (tmp_path / "there.yaml").read_text() == "mine: 1\n"
    assert not (tmp_path / "a.yaml").exists()


def test_a_folder_of_images_is_named_from_the_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "photos", {"train": 2, "test": 1})
    words = ["specs/mine.yaml", "--dataset", "image_folder", "--root", "photos", "--image-size", "32"]
    (tmp_path / "specs").mkdir()
    assert main(["new", *words]) == 0
    assert load_spec("specs/mine.yaml").data.root == str(tmp_path / "photos")
