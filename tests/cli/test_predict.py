import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import refused
from support.dataset_files import digit_files
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras import load_model, load_spec
from encapkeras.cli.main import main
from encapkeras.data import DataSettings, load, splits


@pytest.fixture
def run(tiny_run):
    return tiny_run


@pytest.fixture
def images(tmp_path):
    return digit_files(tmp_path / "images", 12)


def predicted(capsys, *words):
    """What `predict --json` prints."""
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_scores_are_those_of_the_test_images(run, images, capsys):
    found = predicted(capsys, run, images, "--top", 10)
    batch, _ = load(DataSettings(dataset="digits"), seed=0).test.batch(0)
    model = load_model(run / "checkpoints" / "best.keras")
    scores = torch.as_tensor(model.predict(batch[:12], verbose=0))
    assert found["model"] == str(run / "checkpoints" / "best.keras")
    assert [image["file"] for image in found["images"]] == [str(file) for file in sorted(images.iterdir())]
    for image, expected in zip(found["images"], scores, strict=True):
        by_class = {entry["class"]: entry["score"] for entry in image["classes"]}
        assert by_class == pytest.approx({str(label): float(score) for label, score in enumerate(expected)}, abs=1e-6)
        assert list(by_class) == [str(label) for label in expected.argsort(descending=True).tolist()]


def test_a_copied_model_file_is_enough(run, images, tmp_path, capsys):
    alone = tmp_path / "alone.keras"
    shutil.copy(run / "checkpoints" / "best.keras", alone)
    assert predicted(capsys, alone, images)["images"] == predicted(capsys, run, images)["images"]


def test_lines_for_people(run, images, capsys):
    assert main(["predict", str(run), str(images / "03.png"), str(images / "00.png"), "--top", "2"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{run / 'checkpoints' / 'best.keras'}: outputs of the network as they are"
    assert [line.partition(": ")[0] for line in lines] == [str(images / "03.png"), str(images / "00.png")]
    assert all(len(line.partition(": ")[2].split(", ")) == 2 for line in lines)


def test_a_table(run, images, tmp_path, capsys):
    table = tmp_path / "classes.csv"
    found = predicted(capsys, run, images / "03.png", "--csv", table)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    written = [{"class": row["class"], "score": float(row["score"])} for row in rows]
    assert written == found["images"][0]["classes"]
    assert "already exists" in refused(capsys, "predict", run, images, "--csv", table)
    assert "--csv must name a .csv file" in refused(capsys, "predict", run, images, "--csv", tmp_path / "classes.txt")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_any_kind_of_image(mode, run, images, tmp_path, capsys):
    with Image.open(images / "03.png") as grey:
        if mode == "I;16":
            other = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
        else:
            other = grey.convert(mode)
    file = tmp_path / ("other.tif" if mode in ("CMYK", "I;16") else "other.png")
    other.save(file)
    best = [predicted(capsys, run, path)["images"][0]["classes"][0]["class"] for path in (images / "03.png", file)]
    assert best[0] == best[1]


def test_files_that_cannot_be_read_are_named_and_the_others_predicted(run, images, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((images / "03.png").read_bytes()[:90])
    (tmp_path / "empty").mkdir()
    Image.new("F", (8, 8)).save(tmp_path / "floats.tif")
    names = ["gone.png", "notes.png", "cut.png", "empty", "floats.tif"]
    assert main(["predict", str(run), *(str(tmp_path / name) for name in names), str(images)]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 12
    device, *problems, last = printed.err.splitlines()
    assert device.startswith("computed on ")
    assert last == "5 of 17 images could not be read"
    expected = {
        "gone.png": ": there is no such file",
        "notes.png": " cannot be read as an image: it is not in an image format",
        "cut.png": " cannot be read as an image: ",
        "empty": ": there is no image in this folder",
        "floats.tif": " cannot be read as an image: its pixels are floating-point",
    }
    assert len(problems) == len(expected)
    for name, problem in expected.items():
        assert any(line.startswith(f"{tmp_path / name}{problem}") for line in problems)


def test_hidden_files_and_others_in_a_folder_are_left_out(run, images, capsys):
    (images / ".thumbs").mkdir()
    for name in (".hidden.png", "notes.txt", ".thumbs/00.png"):
        (images / name).write_text("no image")
    assert len(predicted(capsys, run, images)["images"]) == 12


def test_models_that_cannot_be_asked(run, images, tmp_path, capsys):
    import keras

    assert "there is no such file" in refused(capsys, "predict", tmp_path / "gone.keras", images)
    assert "is not a run folder" in refused(capsys, "predict", tmp_path, images)
    assert "--top must be at least 1; received 0" in refused(capsys, "predict", run, images, "--top", 0)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="plain").save(tmp_path / "plain.keras")
    assert "'plain' was not made from a spec" in refused(capsys, "predict", tmp_path / "plain.keras", images)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Oblong images in colour, bright ones and dark ones, as an image folder."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, least in (("bright", 128), ("dark", 0)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(least, least + 128, size=(40, 56, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos_run(photos, tmp_path_factory):
    spec = tiny_spec(epochs=1)
    data = {"root": str(photos), "image_size": 32, "augment": {"resize": 36}, "validation": 0, "batch_size": 5}
    spec["data"] = {"dataset": "image_folder", **data}
    return trained(tmp_path_factory.mktemp("photos_run"), spec)


def test_image_files_are_brought_to_the_form_of_the_test_images(photos, photos_run, capsys):
    """A part of an oblong image, in the size that is cut from a larger one."""
    found = predicted(capsys, photos_run, photos / "test")["images"]
    spec = load_spec(photos_run / "spec.yaml")
    model = load_model(photos_run / "checkpoints" / "last.keras")
    expected = model.predict(load(spec.data, seed=0).test, verbose=0)
    for image, (bright, dark) in zip(found, expected.tolist(), strict=True):
        scores = {entry["class"]: entry["score"] for entry in image["classes"]}
        assert scores == pytest.approx({"bright": bright, "dark": dark}, abs=1e-6)


def test_the_data_need_not_be_on_this_machine(photos, photos_run, tmp_path, capsys):
    run = tmp_path / "elsewhere"
    shutil.copytree(photos_run, run)
    spec = run / "spec.yaml"
    spec.write_text(spec.read_text().replace(str(photos), str(tmp_path / "gone")))
    image = photos / "test" / "dark" / "1.png"
    assert predicted(capsys, run, image)["images"] == predicted(capsys, photos_run, image)["images"]
    (run / "results.json").unlink()
    assert main(["predict", str(run), str(image)]) == 0
    assert f"run {run} is unfinished" in capsys.readouterr().err


def test_ten_crops_of_images_that_stay_in_files(photos_run, capsys, monkeypatch):
    def ten_crop_accuracy():
        assert main(["evaluate", str(photos_run), "--ten-crop", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["ten_crop_accuracy"]

    capsys.readouterr()
    in_memory = ten_crop_accuracy()
    monkeypatch.setattr(splits, "IN_MEMORY", 0)
    assert ten_crop_accuracy() == in_memory


def test_folders_with_what_systems_leave_behind_and_with_links_in_a_circle(run, images, tmp_path, capsys):
    (images / "Thumbs.db").write_text("no image")
    (images / "@eaDir").mkdir()
    (images / "@eaDir" / "00.png").write_text("no image")
    (images / "again").symlink_to(images)
    (images / "up").symlink_to(tmp_path)
    assert len(predicted(capsys, run, images)["images"]) == 12


def test_a_named_pipe_is_no_image(run, images, capsys):
    os.mkfifo(images / "pipe.png")
    assert main(["predict", str(run), str(images)]) == 2
    assert "pipe.png cannot be read as an image: not a regular file" in capsys.readouterr().err


def test_images_that_are_all_nearly_black_are_said(run, images, tmp_path, capsys):
    with Image.open(images / "03.png") as gray:
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 16).save(tmp_path / "dark.png")
    with pytest.warns(UserWarning, match="which is nearly black"):
        predicted(capsys, run, tmp_path / "dark.png")
    assert len(predicted(capsys, run, tmp_path / "dark.png", images)["images"]) == 13
