import csv
import json
import shutil

import pytest
import torch
from support.commands import refused
from support.dataset_files import write_image_folder
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras import load_model
from encapkeras.cli.main import main
from encapkeras.data import DataSettings, load


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run whose images are resized to 36 and cut to 32."""
    spec = tiny_spec()
    spec["data"]["augment"] = {"resize": 36}
    return trained(tmp_path_factory.mktemp("evaluate"), spec)


@pytest.fixture
def run(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    capsys.readouterr()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A run whose images are not resized, of another network."""
    return trained(tmp_path_factory.mktemp("plain"), {**tiny_spec(epochs=1), "name": "other"})


def printed(capsys, *words):
    """What `evaluate --json` prints."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows(file):
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_ten_crops_are_the_mean_of_ten_scores(run, capsys):
    figures = printed(capsys, run, "--ten-crop")
    whole = load(DataSettings(dataset="digits", image_size=36, batch_size=500), seed=0).test
    images, labels = whole.batch(0)
    model = load_model(run / "checkpoints" / "best.keras")
    scores = 0
    for top, left in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)):
        crop = images[:, top : top + 32, left : left + 32]
        scores += torch.as_tensor(model.predict(crop, verbose=0)) + torch.as_tensor(
            model.predict(crop.flip(2), verbose=0)
        )
    assert figures["ten_crop_accuracy"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    assert figures["accuracy"] == json.loads((run / "results.json").read_text())["test_accuracy"]
    assert main(["evaluate", str(run), "--ten-crop"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        f"test accuracy {figures['ten_crop_accuracy']:.4f} with ten crops of each image"
    )


def test_ten_crops_of_images_that_are_not_larger(plain_run, capsys):
    message = refused(capsys, "evaluate", plain_run, "--ten-crop")
    assert message.startswith("the images are 32x32, the input size of the network")
    assert "augment.resize" in message


def test_errors_of_each_class(run, tmp_path, capsys):
    figures = printed(capsys, run, "--per-class", "-o", tmp_path / "classes.csv")
    assert (figures["split"], figures["top"]) == ("test", 1)
    table = rows(tmp_path / "classes.csv")
    assert [row["class"] for row in table] == [str(digit) for digit in range(10)]
    assert [float(row["error"]) for row in table] == [row["error"] for row in figures["classes"]]
    accuracy = 1 - sum(row["errors"] for row in figures["classes"]) / sum(row["images"] for row in figures["classes"])
    assert accuracy == pytest.approx(json.loads((run / "results.json").read_text())["test_accuracy"])
    assert main(["evaluate", str(run), "--per-class", "--split", "validation", "--top", "2"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "top-2 errors on the validation images"
    percents = [float(line.split()[-2]) for line in lines if line.rstrip().endswith("%")]
    assert len(percents) == 10
    assert percents == sorted(percents, reverse=True)


def test_the_hardest_classes_one_a_line(run, tmp_path, capsys):
    found = printed(capsys, run, "--per-class", "--split", "validation")["classes"]
    file = tmp_path / "hardest.txt"
    assert main(["evaluate", str(run), "--hardest", "3", "--split", "validation", "-o", str(file)]) == 0
    ranked = sorted(found, key=lambda row: (-row["error"], row["label"]))
    assert file.read_text() == "".join(f"{row['class']}\n" for row in ranked[:3])
    assert capsys.readouterr().out.startswith("3 of 10 classes, from ")
    assert "already exists" in refused(capsys, "evaluate", run, "--hardest", 3, "-o", file)
    assert "cannot choose 11 classes" in refused(capsys, "evaluate", run, "--hardest", 11, "-o", file, "--overwrite")
    assert len(file.read_text().splitlines()) == 3


def test_changed_images_of_two_networks_side_by_side(run, plain_run, capsys):
    assert main(["evaluate", str(run), str(plain_run), "--affine", "--images", "40"]) == 0
    out = capsys.readouterr().out
    folder = run / "analysis" / "affine"
    assert out.endswith(f"written to {folder}\n")
    assert "accuracy on 40 of 360 test images, balanced over 10 classes: unchanged" in out
    assert {file.name for file in folder.iterdir()} == {"affine.csv", "affine.png"}
    table = rows(folder / "affine.csv")
    assert {row["network"] for row in table} == {"tiny", "other"}
    assert {row["images"] for row in table} == {"40"}
    assert [row["amount"] for row in table if row["network"] == "tiny" and row["change"] == "shift"] == list("0123468")
    assert "has affine.csv and affine.png already. Name another folder" in refused(capsys, "evaluate", run, "--affine")
    again = printed(capsys, run, "--affine", "--images", 40, "--overwrite")["measured"]
    before = [float(row["accuracy"]) for row in table if row["network"] == "tiny"]
    assert [row["accuracy"] for row in again] == before


def test_a_part_of_images_that_are_sorted_by_class_has_the_accuracy_of_the_whole(tmp_path, capsys):
    spec = tiny_spec(epochs=1)
    write_image_folder(tmp_path / "photos", {"train": 4, "test": 8})
    spec["data"] = {"dataset": "image_folder", "root": "photos", "image_size": 16, "validation": 0}
    spec["model"]["nodes"]["lengths"] |= {"kernel_initializer": "zeros", "trainable": False}  # always says class 0
    run = trained(tmp_path, spec)
    measured = printed(capsys, run, "--affine", "--images", 12)
    assert {(row["accuracy"], row["images"]) for row in measured["measured"]} == {(1 / 3, 12)}
    assert measured["split_images"] == 24
    assert main(["evaluate", str(run), "--affine", "--images", "12", "--overwrite"]) == 0
    assert "accuracy on 12 of 24 test images, balanced over 3 classes: unchanged" in capsys.readouterr().out


def test_changed_images_in_a_folder_of_ones_own(run, tmp_path, capsys):
    words = [run, "--affine", "--images", 5, "--split", "validation", "-o", tmp_path / "new" / "affine"]
    assert {row["images"] for row in printed(capsys, *words)["measured"]} == {5}
    assert (tmp_path / "new" / "affine" / "affine.png").is_file()
    assert not (run / "analysis").exists()


def test_runs_with_other_images_do_not_stand_side_by_side(run, plain_run, tmp_path, capsys):
    other = tmp_path / "other_images"
    shutil.copytree(plain_run, other)
    spec = other / "spec.yaml"
    spec.write_text(spec.read_text().replace("dataset: digits", "dataset: fashion_mnist"))
    told = refused(capsys, "evaluate", run, other, "--affine")
    assert told == (
        "other was trained on other images (fashion_mnist) than tiny (digits), so their accuracies cannot be "
        "compared. Measure each by itself.\n"
    )


def test_validation_images_of_another_split_do_not_stand_side_by_side(run, plain_run, tmp_path, capsys):
    other = tmp_path / "other_split"
    shutil.copytree(plain_run, other)
    spec = other / "spec.yaml"
    spec.write_text(spec.read_text().replace("seed: 0", "seed: 1"))
    words = ["--affine", "--images", 40, "-o", tmp_path / "affine"]
    told = refused(capsys, "evaluate", run, other, *words, "--split", "validation")
    assert "the validation images of other are not those of tiny" in told
    assert not (tmp_path / "affine").exists()
    assert main(["evaluate", str(run), str(other), *map(str, words)]) == 0  # the test images are the same


def test_changed_images_go_into_a_folder(run, capsys):
    assert "is not a folder. Name a folder with -o" in refused(
        capsys, "evaluate", run, "--affine", "-o", run / "spec.yaml"
    )


def test_options_without_those_that_they_belong_to(run, plain_run, tmp_path, capsys):
    for words, message in {
        (run, plain_run): "only --affine takes several runs; received 2",
        (run, "--top", 2): "--top belongs to --per-class and --hardest",
        (run, "--images", 2): "--images belongs to --affine",
        (run, "-o", tmp_path / "x.csv"): "-o belongs to --per-class, --hardest, --affine, --calibrate and --explain",
        (run, "--hardest", 2): "--hardest needs the file to write",
        (run, "--hardest", 2, "-o", tmp_path / "x.txt", "--json"): "--hardest writes names, one per line",
        (*[run] * 11, "--affine"): "at most 10 runs can be compared; received 11",
        (run, "--affine", "--images", 0): "--images must be at least 1; received 0",
        (run, run, "--affine"): "a run was given twice",
        (run, "--per-class", "--top", 10): "top must be from 1 to 9",
    }.items():
        assert message in refused(capsys, "evaluate", *words)
    assert "not allowed with argument" in refused(capsys, "evaluate", run, "--affine", "--ten-crop")
