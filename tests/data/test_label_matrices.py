"""Images that may have any number of labels: arrays, and tables of image files."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.dataset_files import random_images

from encapkeras import SpecError, load_spec
from encapkeras.data import DataSettings, describe, load
from encapkeras.errors import ArgumentError, DataError

NAMES = ("cat", "dog", "owl")


def matrix(count):
    """Rows of all kinds, none and all labels among them."""
    return (np.arange(count)[:, None] >> np.arange(3)) & 1


def write_npz(path, **changes):
    arrays = {
        "train_images": random_images(24, 8, 8),
        "train_labels": matrix(24),
        "test_images": random_images(8, 8, 8, seed=1),
        "test_labels": matrix(8),
        "class_names": np.array(NAMES),
    }
    np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})
    return DataSettings(dataset="npz", path=str(path), batch_size=8, validation=0.25)


def test_a_matrix_gives_any_number_of_labels(tmp_path):
    settings = write_npz(tmp_path / "a.npz")
    info = describe(settings)
    assert (info.classes, info.class_names, info.classes_per_image) == (3, NAMES, None)
    splits = load(settings, seed=0)
    assert (splits.train.num_images, splits.validation.num_images) == (18, 6)
    labels = torch.cat([labels for _, labels in splits.test])
    assert labels.dtype == torch.float32
    assert labels.numpy().tolist() == matrix(8).tolist()  # a row without any label among them
    with np.load(tmp_path / "a.npz") as file:
        known = {image.tobytes(): row for image, row in zip(file["train_images"], file["train_labels"], strict=True)}
    for images, labels in splits.train:
        for image, row in zip(images, labels, strict=True):
            assert known[(image * 255).round().to(torch.uint8).numpy().tobytes()].tolist() == row.tolist()


def test_a_part_of_the_images_is_drawn_without_classes(tmp_path):
    settings = write_npz(tmp_path / "a.npz").model_copy(update={"subset": 12})
    splits = load(settings, seed=0)
    assert splits.train.num_images + splits.validation.num_images == 12
    assert load(settings, seed=0).fingerprint == splits.fingerprint


def test_another_label_is_another_data_set(tmp_path):
    changed = matrix(24)
    changed[8] = 1 - changed[8]
    first, second = (
        load(write_npz(tmp_path / f"{n}.npz", **kw), seed=0) for n, kw in enumerate([{}, {"train_labels": changed}])
    )
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": matrix(24) * [1, 1, 0]}, "train_labels: 1 of 3 labels in no image, so that no network could"),
        ({"test_labels": matrix(8) * 2}, "test_labels: 12 values other than 0 and 1, the first is 2 at index (1, 0)"),
        (
            {"test_labels": matrix(8)[:, :2]},
            "test_labels: has shape (8, 2); it must be (N, 3), a column for each label",
        ),
        ({"test_labels": np.arange(8) % 3}, "test_labels: has shape (8,); it must be (N, 3), a column for each label"),
        (
            {"train_labels": np.arange(24) % 3, "class_names": None},
            "train_labels: has shape (24,); it must be (N, 3), a column for each label",
        ),
        ({"class_names": np.array(["cat", "dog"])}, "train_labels: has shape (24, 3); it must be (N, 2), a column"),
        ({"train_labels": matrix(24) * 0.5}, "train_labels: labels are float64; they must be integers"),
    ],
)
def test_matrices_that_cannot_be_labels(tmp_path, changes, message):
    with pytest.raises(DataError) as error:
        load(write_npz(tmp_path / "a.npz", **changes), seed=0)
    assert message in str(error.value)


def test_one_label_each_is_likely_a_class(tmp_path):
    settings = write_npz(tmp_path / "a.npz", train_labels=np.eye(3, dtype=int)[np.arange(24) % 3])
    with pytest.warns(UserWarning, match="each training image has exactly one label"):
        describe(settings)


@pytest.mark.parametrize("setting", [{"overlap": 2}, {"balance": True}])
def test_what_needs_one_class_for_each_image(tmp_path, setting):
    settings = write_npz(tmp_path / "a.npz").model_copy(update=setting)
    with pytest.raises(ArgumentError, match=f"data.{next(iter(setting))} .* have several labels"):
        describe(settings)


def write_photos(root, rows, header="file,cat,dog,owl", parts=("train", "test")):
    """A folder of images, named by a table with these rows; without parts, all in the root."""
    for part in parts:
        (root / part).mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = row.partition(",")[0]
        Image.fromarray(random_images(1, 8, 8, 3, seed=len(name))[0]).save(root / name)
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return DataSettings(dataset="image_folder", root=str(root), labels=str(root / "labels.csv"), image_size=8)


ROWS = [f"{part}/{n}.png,{n & 1},{n >> 1 & 1},{n >> 2 & 1}" for part in ("train", "test") for n in range(8)]


def test_a_table_names_the_labels_of_files(tmp_path):
    settings = write_photos(tmp_path, ROWS)
    (tmp_path / "train/unnamed.png").write_bytes((tmp_path / "train/0.png").read_bytes())
    info = describe(settings)
    assert (info.class_names, info.classes_per_image, info.train_images) == (NAMES, None, 8)
    test = load(settings, seed=0).test
    assert torch.cat([labels for _, labels in test]).numpy().tolist() == matrix(8).tolist()


def test_without_folders_of_parts_a_fifth_is_the_test(tmp_path):
    rows = [f"{n}.png,{n & 1},{n >> 1 & 1},{n >> 2 & 1}" for n in range(20)]
    splits = load(write_photos(tmp_path, rows, parts=()), seed=0)
    assert (splits.train.num_images + splits.validation.num_images, splits.test.num_images) == (16, 4)


def test_files_outside_of_the_parts_are_said(tmp_path):
    rows = [*ROWS, "valid/8.png,1,0,0", "extra/9.png,1,0,0", "10.png,0,1,0"]
    settings = write_photos(tmp_path, rows, parts=("train", "test", "valid", "extra"))
    with pytest.warns(UserWarning) as warnings:
        assert describe(settings).train_images == 8
    assert [str(warning.message) for warning in warnings] == [
        f"{tmp_path}/labels.csv: 3 files outside of the parts not used: valid/8.png, extra/9.png, 10.png. Folders that "
        "are not used: 'valid' (call it 'val' to use it), 'extra'"
    ]


def test_parts_without_a_test_are_not_mixed(tmp_path):
    rows = [row.replace("test/", "val/") for row in ROWS]
    with pytest.raises(DataError, match=r"there is a folder 'train', but none called 'test'; if you test with 'val'"):
        describe(write_photos(tmp_path, rows, parts=("train", "val")))


def refused(tmp_path, rows, header="file,cat,dog,owl"):
    settings = write_photos(tmp_path, ROWS)
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    with pytest.raises(DataError) as error:
        describe(settings)
    return str(error.value)


def test_missing_files_are_named_up_to_ten(tmp_path):
    message = refused(tmp_path, [*ROWS, *(f"train/none_{n:02}.png,1,0,0" for n in range(12))])
    assert "12 files that do not exist: train/none_00.png, train/none_01.png" in message
    assert message.endswith("train/none_09.png, and 2 more")
    assert len(message.splitlines()) == 2


def test_a_table_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    settings = write_photos(tmp_path, ROWS)
    (tmp_path / "labels.csv").write_bytes(b"file,cat,dog\ntrain/0.png,1,0\ntr\xe4in/1.png,1,0\n")
    with pytest.raises(DataError, match=r"labels.csv:3: byte 0xe4 is not UTF-8. Save the file as CSV in UTF-8"):
        describe(settings)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([*ROWS, "train/0.png,1,0,0"], "file,cat,dog,owl", "1 file given twice: train/0.png"),
        ([*ROWS, "../x.png,1,0,0"], "file,cat,dog,owl", "1 file outside of that folder: ../x.png"),
        ([ROWS[0], "train/1.png,1,yes,0"], "file,cat,dog,owl", "labels.csv:3: column 'dog' is 'yes'; allowed are 1, 0"),
        ([ROWS[0], "train/1.png,1"], "file,cat,dog,owl", "labels.csv:3: has 2 cells; line 1 names 4 columns"),
        (ROWS, "name,cat,dog,owl", "labels.csv:1: the first line names the columns: 'file', and at least two labels"),
        (ROWS, "file,cat,cat,owl", "'cat' is there twice"),
        (ROWS[:8], "file,cat,dog,owl", "it names no image of test"),
        ([row[:-1] + "0" for row in ROWS], "file,cat,dog,owl", "train: 1 of 3 labels in no image"),
        ([], "file,cat,dog,owl", "labels.csv has no samples: it needs a line"),
        (
            [row.replace(",", ";") for row in ROWS],
            "file;cat;dog;owl",
            "cells seem to be separated by ';', not by ',': save the table with ',' between cells",
        ),
        (
            ['"train/0.png\n",1,yes,0'],
            "file,cat,dog,owl",
            "labels.csv:2: column 'dog' is 'yes'",
        ),
    ],
)
def test_tables_that_cannot_be_labels(tmp_path, rows, header, message):
    assert message in refused(tmp_path, rows, header)


def test_an_error_in_a_table_is_at_the_setting_that_names_it(tmp_path):
    data = write_photos(tmp_path, [ROWS[0], "train/1.png,1,yes,0"]).model_dump(exclude_unset=True)
    with pytest.raises(SpecError) as caught:
        load_spec({"extends": "quickstart.yaml", "data": data})
    assert "data.labels" in {problem.path for problem in caught.value.problems}
