import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import refused
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras import load_model
from encapkeras.cli.main import main
from encapkeras.data import DataSettings, load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("predict"), tiny_spec())


@pytest.fixture
def images(tmp_path):
    """Test images of the digits as files, in a folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(load(DataSettings(dataset="digits"), seed=0).test.images_as_uint8(12)):
        Image.fromarray(image[..., 0].numpy()).save(folder / f"{number:02}.png")
    return folder


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
    assert "exists already" in refused(capsys, "predict", run, images, "--csv", table)


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
    *problems, last = printed.err.splitlines()
    assert last == "5 of 17 images could not be read"
    expected = {
        "gone.png": ": there is no such file",
        "notes.png": " cannot be read as an image: it is of no image format",
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
    assert "is not the folder of a run" in refused(capsys, "predict", tmp_path, images)
    assert "--top must be at least 1; received 0" in refused(capsys, "predict", run, images, "--top", 0)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="plain").save(tmp_path / "plain.keras")
    assert "'plain' was not made from a spec" in refused(capsys, "predict", tmp_path / "plain.keras", images)
