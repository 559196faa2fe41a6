import numpy as np
import pytest
from support.dataset_files import write_image, write_image_folder, write_voc_boxes

from encapkeras.data import DataSettings, load
from encapkeras.data.fingerprint import data_differences


def of_folder(root):
    settings = DataSettings(dataset="image_folder", root=str(root), image_size=8, workers=0, validation=0.5)
    return load(settings, seed=0).fingerprint


def of_arrays(path, change=lambda arrays: None):
    rng = np.random.default_rng(0)
    arrays = {"train_labels": np.arange(8) % 2, "test_labels": np.arange(4) % 2}
    for name in ("train", "test"):
        arrays[f"{name}_images"] = rng.integers(256, size=(len(arrays[f"{name}_labels"]), 4, 4), dtype=np.uint8)
    change(arrays)
    np.savez(path, **arrays)
    return load(DataSettings(dataset="npz", path=str(path), validation=0.5), seed=0).fingerprint


def test_image_files_may_move(tmp_path):
    write_image_folder(tmp_path / "here", {"train": 4, "test": 2})
    before = of_folder(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert of_folder(tmp_path / "there") == before
    assert data_differences(before, of_folder(tmp_path / "there")) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: write_image(root / "train/cat/00.png"), "12 training images there, 13 here (of 'cat' 4 there, 5"),
        (lambda root: (root / "test/dog/1.png").unlink(), "6 test images there, 5 here (of 'dog' 2 there, 1 here)"),
        (
            lambda root: (root / "train/cat/1.png").rename(root / "train/cat/9.png"),
            "training images of 'cat' are others",
        ),
        (lambda root: write_image(root / "train/owl/1.png", size=(5, 5)), "training images of 'owl' are others"),
        (lambda root: write_image_folder(root, {"val": 2}), "a validation part here alone"),
    ],
)
def test_what_has_changed_among_image_files(tmp_path, change, said):
    root = write_image_folder(tmp_path, {"train": 4, "test": 2})
    before = of_folder(root)
    change(root)
    assert said in data_differences(before, of_folder(root))


def test_classes_that_were_renamed_or_removed(tmp_path):
    root = write_image_folder(tmp_path, {"train": 4, "test": 2})
    before = of_folder(root)
    for part in ("train", "test"):
        (root / part / "dog").rename(root / part / "hound")
    assert data_differences(before, of_folder(root)) == "class 1 is 'dog' there and 'hound' here"
    for part in ("train", "test"):
        (root / part / "hound").rename(tmp_path.parent / f"{tmp_path.name}_{part}")
    assert data_differences(before, of_folder(root)) == "3 classes there, 2 here, without 'dog'"


def brighter(arrays):
    arrays["train_images"][0, 0, 0] ^= 1


def reordered(arrays):
    for name in ("images", "labels"):
        arrays[f"train_{name}"] = arrays[f"train_{name}"][[1, 0, 2, 3, 4, 5, 6, 7]]


def relabeled(arrays):
    arrays["test_labels"] = np.array([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (brighter, "training images of '0' are others"),
        (reordered, "the training images are in another order"),
        (relabeled, "4 test images there, 4 here (of '0' 2 there, 3 here, of '1' 2 there, 1 here)"),
    ],
)
def test_what_has_changed_among_arrays(tmp_path, change, said):
    assert data_differences(of_arrays(tmp_path / "a.npz"), of_arrays(tmp_path / "b.npz", change)) == said
    assert data_differences(of_arrays(tmp_path / "a.npz"), of_arrays(tmp_path / "b.npz")) == ""


def test_boxes_count_as_part_of_the_images(tmp_path):
    for wnid in ("n00000001", "n00000002"):
        for part in ("train", "val"):
            for number in range(2):
                write_image(tmp_path / part / wnid / f"{part}_{wnid}_{number}.jpeg", size=(20, 16))
                write_voc_boxes(tmp_path / "boxes" / wnid / f"{part}_{wnid}_{number}.xml", (2, 2, 9, 9), name=wnid)

    def taken(**more):
        settings = DataSettings(
            dataset="h_imagenet", root=str(tmp_path), image_size=8, workers=0, validation=0.5, **more
        )
        return load(settings, seed=0).fingerprint

    assert "training images of 'n00000001'" in data_differences(taken(), taken(boxes=str(tmp_path / "boxes")))


def test_fingerprints_of_another_format_say_nothing(tmp_path):
    now = of_arrays(tmp_path / "a.npz")
    assert data_differences({**now, "format": 99, "class_names": ["x"]}, now) == ""
