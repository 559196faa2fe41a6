"""A run becomes a folder that loads anywhere, and that says when it has been changed."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support.commands import refused
from support.tiny_spec import tiny_spec
from support.trained import trained

import encapkeras
from encapkeras import load_model, load_spec
from encapkeras.cli.main import main
from encapkeras.errors import PackedModelError
from encapkeras.packing.packed_folder import FILES, SUMS, WEIGHTS


@pytest.fixture
def packed(packed_once, tmp_path):
    return shutil.copytree(packed_once, tmp_path / "tiny")


def test_the_network_is_the_one_that_training_chose(packed, two_runs):
    assert {file.name for file in packed.iterdir()} == {*FILES, SUMS, WEIGHTS}
    images = torch.rand(4, 32, 32, 1, generator=torch.Generator().manual_seed(0))
    model, chosen = encapkeras.load(packed), load_model(two_runs[0] / "checkpoints" / "best.keras")
    assert torch.equal(model(images), chosen(images))
    assert list(model.class_names) == json.loads((packed / "class_names.json").read_text()) == list("0123456789")
    weights = safetensors.torch.load_file(packed / WEIGHTS)
    assert all(torch.equal(weights[weight.path], weight.value) for weight in chosen.weights)
    assert len(weights) == len(chosen.weights)


def test_it_needs_nothing_but_the_folder(packed, tmp_path):
    """In a folder without specs, in a process of its own."""
    code = "import encapkeras, sys; print(*encapkeras.load(sys.argv[1]).class_names)"
    command = [sys.executable, "-c", code, str(packed)]
    assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()[:2] == [
        "0",
        "1",
    ]


def test_its_spec_trains_the_same_network(packed, two_runs):
    assert load_spec(packed / "spec.yaml").resolved == load_spec(two_runs[0] / "spec.yaml").resolved


def test_the_card_says_what_is_known(packed, two_runs):
    head, _, text = (packed / "README.md").read_text().removeprefix("---\n").partition("---\n")
    data = yaml.safe_load(head)
    results = [json.loads((run / "results.json").read_text()) for run in two_runs]
    (metric,) = data["model-index"][0]["results"][0]["metrics"]
    assert data["license"] == "apache-2.0" and data["pipeline_tag"] == "image-classification"
    assert metric["value"] == pytest.approx(results[0]["test_accuracy"], abs=1e-4)
    accuracies = [found["test_accuracy"] for found in results]
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert f"| test accuracy | {mean:.4f} | {deviation:.4f} | {min(accuracies):.4f} | {max(accuracies):.4f} |" in text
    assert "1,293 for training, 144 for validation, 360 for testing" in text
    assert "Images of shape 32 x 32 x 1" in text.replace("It takes images", "Images")
    assert "SHA256SUMS" in text and 'encapkeras.load("tiny")' in text


def test_the_card_has_the_calibration_that_the_network_has(two_runs, tmp_path, capsys):
    run = shutil.copytree(two_runs[0], tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--calibrate", "--json", "-o", str(tmp_path / "elsewhere")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["pack", str(run), "-o", str(tmp_path / "new")]) == 0
    text = " ".join((tmp_path / "new" / "README.md").read_text().split())
    before, after = (found[when]["calibration_error"] for when in ("before", "after"))
    assert f"a temperature, {found['temperature']:.4f}, " in text
    assert f"is {after:.4f}; without the temperature it was {before:.4f}." in text
    assert "returns one score for each class; `encapkeras predict` and `encapkeras.analysis.classify` give" in text
    calibration = json.loads((tmp_path / "new" / "results.json").read_text())["calibration"]
    assert calibration == pytest.approx({"temperature": found["temperature"], "before": before, "after": after})


def test_a_file_that_says_of_another_temperature_is_not_believed(two_runs, tmp_path):
    run = shutil.copytree(two_runs[0], tmp_path / "run")
    file = run / "analysis" / "calibration" / "calibration.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"temperature": 1.5, "before": {"calibration_error": 0.25}, "after": {}}))
    assert main(["pack", str(run), "-o", str(tmp_path / "new")]) == 0
    assert "calibration" not in json.loads((tmp_path / "new" / "results.json").read_text())


def test_the_card_says_what_the_network_returns(tmp_path):
    spec = tiny_spec(epochs=1)
    spec["losses"]["classes"] = {"loss": "binary_cross_entropy"}
    assert main(["pack", str(trained(tmp_path, spec)), "-o", str(tmp_path / "new")]) == 0
    text = (tmp_path / "new" / "README.md").read_text()
    assert "returns scores that its loss turns into probabilities; `encapkeras predict` and" in text


def test_the_confusion_is_that_of_the_test_images(packed):
    content = json.loads((packed / "results.json").read_text())
    counts = np.array(content["packed"]["confusion"])
    assert counts.sum() == 360
    assert np.trace(counts) / 360 == pytest.approx(content["runs"][0]["test_accuracy"], abs=1e-6)
    table = [line for line in (packed / "README.md").read_text().splitlines() if line.startswith("| 3 |")]
    assert [cell.strip() or "0" for cell in table[0].split("|")[2:-1]] == [str(count) for count in counts[3]]


def test_hashes_are_those_that_sha256sum_reads(packed):
    lines = (packed / SUMS).read_text().splitlines()
    assert {line[66:]: line[:64] for line in lines} == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in packed.iterdir() if file.name != SUMS
    }


@pytest.mark.parametrize("name", [*FILES, WEIGHTS])
def test_a_changed_byte_is_refused_by_name(name, packed):
    file = packed / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackedModelError, match=f"tiny has been changed.*: {name} is not as SHA256SUMS says"):
        encapkeras.load(packed)


def test_every_changed_byte_of_the_hashes_is_refused(packed):
    whole = (packed / SUMS).read_bytes()
    for place in range(0, len(whole), 37):
        content = bytearray(whole)
        content[place] ^= 1
        (packed / SUMS).write_bytes(content)
        with pytest.raises(PackedModelError, match=SUMS):
            encapkeras.load(packed)


def test_all_that_is_wrong_is_said_at_once(packed, capsys):
    (packed / "LICENSE").unlink()
    (packed / "spec.yaml").write_text("spec: encapkeras/1\n")
    message = refused(capsys, "predict", packed, "photo.png")
    assert "LICENSE is missing; spec.yaml is not as SHA256SUMS says" in message


def test_files_of_others_are_left_alone(packed):
    (packed / ".gitattributes").write_text("*.keras filter=lfs\n")
    (packed / "model.py").write_text("raise SystemExit\n")
    assert encapkeras.load(packed).class_names


def test_what_is_not_packed_is_refused(two_runs, tmp_path):
    with pytest.raises(PackedModelError, match="'encapkeras pack RUN -o DIR' makes one of a run"):
        encapkeras.load(two_runs[0])
    with pytest.raises(PackedModelError, match=r"there is no folder 'digits_dynamik'.* Did you mean digits_dynamic"):
        encapkeras.load("digits_dynamik")
    (tmp_path / "file").touch()
    with pytest.raises(PackedModelError, match="is not a folder"):
        encapkeras.load(tmp_path / "file")


def test_predict_and_export_take_a_packed_folder(packed, tmp_path, capsys):
    Image.new("L", (8, 8), 128).save(tmp_path / "gray.png")
    assert main(["predict", str(packed), str(tmp_path / "gray.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(packed / "model.keras")
    assert main(["export", str(packed), "-o", str(tmp_path / "x.keras")]) == 0


def test_commands_that_need_a_run_say_so(packed, capsys):
    assert "is a packed model, which predict, explain and export take" in refused(capsys, "evaluate", packed)
    (packed / SUMS).unlink()
    assert f"but no {SUMS}; predict takes {packed / 'model.keras'} itself" in refused(capsys, "predict", packed, packed)


def test_nothing_is_written_where_something_is(packed, two_runs, tmp_path, capsys):
    run = two_runs[0]
    assert "already holds a packed model" in refused(capsys, "pack", run, "-o", packed)
    assert "holds files of another kind" in refused(capsys, "pack", run, "-o", run)
    (packed / "notes.txt").write_text("mine")
    assert main(["pack", str(run), "-o", str(packed), "--overwrite", "--no-safetensors"]) == 0
    assert {file.name for file in packed.iterdir()} == {*FILES, SUMS, "notes.txt"}
    assert encapkeras.load(packed).class_names
    assert not list(packed.parent.glob(".*"))


def test_runs_that_cannot_be_packed(two_runs, tmp_path, capsys):
    output, (run, other) = tmp_path / "new", two_runs
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    assert "is unfinished: it has no results.json" in refused(capsys, "pack", unfinished, "-o", output)
    assert "two runs have the same seed: 0, 0" in refused(capsys, "pack", run, run, "-o", output)
    longer = trained(tmp_path, tiny_spec(epochs=2, seed=2), "longer")
    capsys.readouterr()
    assert "train.epochs is 1 there and 2 here" in refused(capsys, "pack", run, other, longer, "-o", output)
    assert "is not a folder" in refused(capsys, "pack", tmp_path / "gone", "-o", output)
    assert not output.exists()


def test_licences(two_runs, tmp_path, capsys):
    run, output = two_runs[0], tmp_path / "new"
    assert "needs the text of that licence" in refused(capsys, "pack", run, "-o", output, "--license", "mit")
    assert "must be an identifier" in refused(capsys, "pack", run, "-o", output, "--license", "MIT License")
    (tmp_path / "mit.txt").write_text("Permission is hereby granted\n")
    words = ["--license", "mit", "--license-file", str(tmp_path / "mit.txt")]
    (tmp_path / "empty.txt").touch()
    assert "it is empty" in refused(capsys, "pack", run, "-o", output, *words[:3], tmp_path / "empty.txt")
    assert main(["pack", str(run), "-o", str(output), *words]) == 0
    assert (output / "LICENSE").read_text() == "Permission is hereby granted\n"
    assert "license: mit\n" in (output / "README.md").read_text()


def test_where_the_images_are_stays_here(tmp_path):
    """Paths of this machine are neither in the spec nor in the model."""
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for name in ("bright", "dark"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(random.integers(0, 255, size=(32, 32), dtype=np.uint8))
                image.save(tmp_path / "photos" / part / name / f"{number}.png")
    spec = {**tiny_spec(epochs=1), "name": "of_photos"}
    spec["data"] = {"dataset": "image_folder", "root": str(tmp_path / "photos"), "image_size": 32, "validation": 0.25}
    run = trained(tmp_path, spec)
    output = tmp_path / "packed"
    assert main(["pack", str(run), "-o", str(output)]) == 0
    model = encapkeras.load(output)
    assert model.class_names == ("bright", "dark")
    for file in output.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert str(tmp_path) not in json.dumps(model.get_config())
