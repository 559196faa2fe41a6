"""`train.analysis` writes what `analyse` would have said after those epochs, and does not disturb the training."""

import shutil

import pytest
import torch
from support.dataset_files import write_image_folder
from support.routing_spec import routing_spec
from support.tiny_spec import tiny_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras.analysis import analyse_routing, read_csv
from encapkeras.data import AugmentSettings, DataSettings, load
from encapkeras.data.splits import balanced_order
from encapkeras.errors import ArgumentError, SpecError, TrainingError
from encapkeras.model.load_model import load_model
from encapkeras.spec.load import load_spec
from encapkeras.training import train
from encapkeras.training.analysis_images import sample_images
from encapkeras.training.run.run_folder import RunFolder

DRAWS = True  # see conftest.py


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysed") / "run"
    train(load_spec(routing_spec(epochs=4, analysis={"every": 2, "images": 50})), run_dir=folder)
    return RunFolder(folder)


def test_every_so_many_epochs_have_their_figures(finished):
    analyses = read_csv(finished.analysis / "epochs.csv")
    assert [(a.checkpoint, a.split, a.images) for a in analyses] == [
        ("epoch 2", "balanced validation", 50),
        ("epoch 4", "balanced validation", 50),
    ]
    assert all(analysis.layers == ("middle", "digits") for analysis in analyses)


def test_the_figures_are_those_of_the_saved_weights(finished):
    splits = load(DataSettings(dataset="digits", batch_size=128), seed=0)
    sample = sample_images(splits, "validation", 50)
    again = analyse_routing(load_model(finished.last), sample.images, sample.labels)
    kept = read_csv(finished.analysis / "epochs.csv")[-1]
    assert again.measurements == kept.measurements


def test_tensorboard_has_the_epochs(finished):
    board = EventAccumulator(str(finished.analysis / "epochs"))
    board.Reload()
    points = board.Scalars("digits/activation/target/iteration 3")
    kept = [a.select("digits", "activation", "target")[-1].value for a in read_csv(finished.analysis / "epochs.csv")]
    assert [point.step for point in points] == [2, 4]
    assert [point.value for point in points] == pytest.approx(kept)
    assert {"middle/votes", "digits/votes", "digits/iterations"} <= set(board.Tags()["images"])


def test_the_training_goes_on_as_without(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    again = RunFolder(tmp_path / "run")
    (again.analysis / "notes.txt").write_text("mine")
    train(load_spec(routing_spec(epochs=4)), run_dir=again.path, overwrite=True)
    with_and_without = zip(load_model(finished.last).weights, load_model(again.last).weights, strict=True)
    assert all(torch.equal(one.value, other.value) for one, other in with_and_without)
    # What the older run left is removed with it.
    assert [file.name for file in again.analysis.rglob("*") if file.is_file()] == ["notes.txt"]


def refused(error, folder, spec):
    with pytest.raises(error) as caught:
        train(load_spec(spec), run_dir=folder / "run")
    assert not (folder / "run").exists()
    return str(caught.value)


def test_a_network_without_routing_is_refused_before_anything_is_written(tmp_path):
    message = refused(ArgumentError, tmp_path, tiny_spec(analysis={"every": 1}))
    assert message.startswith(
        "network 'tiny' has no routing layer; layers that can be analysed: convolution_dynamic_capsules, "
    )


def test_an_analysis_needs_validation_images(tmp_path):
    spec = routing_spec(analysis={"every": 1})
    spec["data"]["validation"] = 0
    assert refused(TrainingError, tmp_path, spec).startswith("train.analysis looks at validation images")


@pytest.mark.parametrize(
    ("analysis", "text"),
    [
        ({"every": 0}, "must be greater than 0; received 0"),
        ({"every": 2, "image": 5}, "'image' is not allowed here. Did you mean 'images'?"),
        ({"images": 5}, "'every' is missing"),
        ({"every": 3}, "every must be at most train.epochs, 2; received 3"),
        (5, "must be a map; received 5"),
    ],
)
def test_settings_that_mean_nothing(analysis, text):
    with pytest.raises(SpecError) as caught:
        load_spec(routing_spec(analysis=analysis))
    assert text in str(caught.value)
    assert "train.analysis" in str(caught.value)


def test_a_trial_of_one_epoch_may_end_before_the_first_analysis():
    assert load_spec(routing_spec(epochs=1, analysis={"every": 5})).train.analysis.every == 5


@pytest.mark.parametrize(("split", "images"), [("test", 360), ("validation", 144), ("train", 1293)])
def test_images_are_a_balanced_choice_of_a_split_as_they_are(split, images):
    splits = load(DataSettings(dataset="digits", batch_size=100, augment=AugmentSettings(mirror=True)), seed=0)
    few, everything = (sample_images(splits, split, count) for count in (130, 10_000))
    assert (few.name, everything.name) == (f"balanced {split}", split)
    assert few.text == f"130 of {images:,} {split} images, balanced over 10 classes"
    assert everything.text == f"{images:,} {split} images"
    assert torch.equal(everything.images, getattr(splits, split).images_as_uint8() / 255)
    chosen = balanced_order(everything.labels.numpy())[:130]
    chosen.sort()
    assert torch.equal(few.images, everything.images[chosen])
    assert torch.equal(few.labels, everything.labels[chosen])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_of_a_folder_are_not_those_of_its_first_class(tmp_path, split):
    write_image_folder(tmp_path, {"train": 2, "val": 8, "test": 8})
    data = DataSettings(dataset="image_folder", root=str(tmp_path), image_size=8, workers=0, validation="own")
    assert sample_images(load(data, seed=0), split, 6).labels.tolist() == [0, 0, 1, 1, 2, 2]
