"""`encapkeras explain`, and `encapkeras evaluate --explain`."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.commands import refused
from support.dataset_files import digit_files
from support.routing_spec import routing_spec
from support.trained import trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras.cli.main import main
from encapkeras.packing.zoo import zoo_models

DRAWS = True


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    spec = routing_spec(epochs=1)
    spec["model"]["nodes"]["digits"]["iterations"] = 2
    return trained(tmp_path_factory.mktemp("explain"), spec)


@pytest.fixture
def run(run_folder, tmp_path, capsys):
    """A copy of the run, whose training has printed its lines."""
    shutil.copytree(run_folder, tmp_path / "run")
    capsys.readouterr()
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    return digit_files(tmp_path / "images", 2, "digit {}.png")


def explain(*words):
    return main(["explain", *map(str, words)])


def test_a_picture_for_each_image_the_arrays_and_an_event_file(run, images, capsys):
    assert explain(run, images) == 0
    output = run / "analysis" / "explain"
    (events,) = output.glob("events.out.tfevents.*")
    pictures = {"1_digit_0.png", "2_digit_1.png"}
    assert {file.name for file in output.iterdir()} == {"explanations.npz", events.name, *pictures}
    board = EventAccumulator(str(events))
    board.Reload()
    assert board.Tags()["images"] == ["explain/1_digit_0", "explain/2_digit_1"]
    with np.load(output / "explanations.npz") as file:
        assert file["maps"].shape == (2, 3, 32, 32)
        np.testing.assert_allclose(file["maps"].sum((2, 3)), 1, rtol=1e-5)
    printed = capsys.readouterr()
    first, *lines, last = printed.out.splitlines()
    assert first == (
        f"{run / 'checkpoints' / 'best.keras'}: flow of agreement, through digits, middle to the positions of "
        "capsules (3 x 3)"
    )
    assert [line.partition(": ")[0] for line in lines] == [str(images / f"digit {number}.png") for number in (0, 1)]
    assert last == f"written to {output}"
    assert "fitted to" not in printed.err


def test_named_classes_by_another_method_in_a_folder_of_ones_own(run, images, tmp_path, capsys):
    words = (
        run,
        images / "digit 1.png",
        "--class",
        3,
        "--class",
        8,
        "--method",
        "gradient_input",
        "-o",
        tmp_path / "out",
    )
    assert explain(*words) == 0
    with np.load(tmp_path / "out" / "explanations.npz") as file:
        assert file["labels"].tolist() == [[3, 8]]
        assert str(file["method"]) == "gradient_input"
    before = (tmp_path / "out" / "1_digit_1.png").read_bytes()
    capsys.readouterr()
    assert "has explanations.npz and 1_digit_1.png already" in refused(capsys, "explain", *words)
    assert (tmp_path / "out" / "1_digit_1.png").read_bytes() == before
    assert explain(*words, "--overwrite") == 0


def test_overwriting_leaves_nothing_of_an_earlier_explanation(tiny_run, images, tmp_path):
    output = tmp_path / "out"
    assert explain(tiny_run, images, "-o", output) == 0
    (output / "3_mine.png").write_bytes(b"mine")
    (output / "events.out.tfevents.mine").write_bytes(b"mine")
    before = {file.name for file in output.iterdir()}
    assert explain(tiny_run, images / "digit 1.png", "-o", output, "--overwrite") == 0
    now = {file.name for file in output.iterdir()}
    own = {"explanations.npz", "1_digit_1.png", "3_mine.png", "events.out.tfevents.mine"}
    (events,) = now - own
    assert now - {events} == own
    assert events not in before


def test_a_model_file_needs_a_folder_to_write_to(run, images, tmp_path, capsys):
    alone = tmp_path / "alone.keras"
    shutil.copy(run / "checkpoints" / "best.keras", alone)
    message = refused(capsys, "explain", alone, images)
    assert message == f"'{alone}' is not a run folder; name the folder to write to with -o\n"
    assert explain(alone, images, "-o", tmp_path / "out") == 0


def test_an_image_in_place_of_the_model_is_no_model(images, capsys):
    image = images / "digit 1.png"
    assert f"'{image}' cannot be loaded: it is not a .keras file" in refused(capsys, "explain", image, image)


def test_a_packed_model_needs_a_folder_to_write_to(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    packed = shutil.copytree(zoo_models()["digits_dynamic"], tmp_path / "packed")
    for model in (packed, "digits_dynamic"):
        message = refused(capsys, "explain", model, images)
        assert message == f"'{model}' is not a run folder; name the folder to write to with -o\n"
    assert not (packed / "analysis").exists()
    assert explain("digits_dynamic", images, "--top", 1, "-o", tmp_path / "out") == 0


def test_images_of_another_size_and_mode_are_fitted_and_named(run, images, tmp_path, capsys):
    Image.new("RGB", (60, 40), "white").save(images / "wide.png")
    assert explain(run, images, "-o", tmp_path / "out") == 0
    note = f"fitted to 32 x 32 pixels in gray: {images / 'wide.png'} (60 x 40, RGB)\n"
    assert note in capsys.readouterr().err


def test_a_network_without_a_flow_says_so(tiny_run, images, tmp_path, capsys):
    assert explain(tiny_run, images, "-o", tmp_path / "out") == 0
    assert "gradient times input, since network 'tiny' has no routing layer\n" in capsys.readouterr().out
    message = refused(capsys, "explain", tiny_run, images, "--method", "flow", "-o", tmp_path / "other")
    assert message == (
        "network 'tiny' has no routing layer. Method gradient_input explains networks without such routing.\n"
    )
    assert not (tmp_path / "other").exists()


def test_wrong_words(run, images, tmp_path, capsys):
    output = tmp_path / "out"
    for words, message in [
        (["--class", "cat"], "'cat' is not a class of this network. Allowed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.\n"),
        (["--top", 0], "top must be at least 1; received 0\n"),
    ]:
        assert refused(capsys, "explain", run, images, *words, "-o", output) == message
    assert "explain takes the run first, then the images" in refused(capsys, "explain", images / "digit 0.png", run)
    (images / "broken.png").write_bytes(b"not an image")
    message = refused(capsys, "explain", run, images, images / "missing.png", "-o", output)
    assert "broken.png" in message and "missing.png: there is no such file" in message
    assert message.endswith("2 images could not be read; nothing was written\n")
    assert not output.exists()
    (tmp_path / "file").write_text("mine")
    assert "is not a folder. Name a folder with -o" in refused(
        capsys, "explain", run, images / "digit 0.png", "-o", tmp_path / "file"
    )


def test_a_run_without_weights(run, images, capsys):
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    assert "has no checkpoint, though it is finished" in refused(capsys, "explain", run, images)


def test_what_explanations_are_worth(run, capsys):
    assert main(["evaluate", str(run), "--explain", "--images", "12"]) == 0
    output = run / "analysis" / "faithfulness"
    assert {file.name for file in output.iterdir()} == {"faithfulness.csv", "faithfulness.png"}
    rows = list(csv.DictReader((output / "faithfulness.csv").read_text().splitlines()))
    methods = ["flow", "gradient_input", "brightness", "random_coarse", "random"]
    assert [(row["method"], row["curve"]) for row in rows] == [
        (method, curve) for method in methods for curve in ("deletion", "insertion")
    ]
    assert all(float(row["low"]) <= float(row["area"]) <= float(row["high"]) for row in rows)
    area = {(row["method"], row["curve"]): float(row["area"]) for row in rows}
    for control in ("random", "brightness"):
        for row in rows:
            expected = float(row["area"]) - area[control, row["curve"]]
            assert row[f"minus_{control}"] == "" if row["method"] == control else True
            assert float(row[f"minus_{control}"] or 0) == pytest.approx(expected, abs=1e-6)
    printed = capsys.readouterr().out
    assert "12 of 360 test images, balanced over 10 classes" in printed
    assert printed.endswith(f"written to {output}\n")
    assert "has faithfulness.csv and faithfulness.png already" in refused(capsys, "evaluate", run, "--explain")
    words = ["evaluate", str(run), "--explain", "--images", "12", "--overwrite", "--json"]
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)["measured"]
    assert [str(row["area"]) for row in again] == [row["area"] for row in rows]  # seeded


def test_explain_goes_with_its_own_options(tiny_run, capsys):
    for words, message in [
        (["--images", 1, "--explain"], "--images must be at least 2, for an interval; received 1"),
        (["--images", 5], "--images belongs to --affine and --explain"),
        (["-o", "x"], "-o belongs to --per-class, --hardest, --affine, --calibrate and --explain"),
    ]:
        assert message in refused(capsys, "evaluate", tiny_run, *words)
