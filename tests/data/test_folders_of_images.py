"""image_folder and h_imagenet: genuine folders, read through the public entry; and what is said of wrong ones."""

import os

import numpy as np
import pytest
import torch
from support.dataset_files import write_image, write_image_folder, write_voc_boxes

from encapkeras import check_spec, load_spec
from encapkeras.data import DataSettings, describe, load, read_image
from encapkeras.data.augment import resize
from encapkeras.data.readers.h_imagenet import read_class_list
from encapkeras.errors import ArgumentError, DataError

WNIDS = ("n01440764", "n02119789", "n03888257")


def folder_settings(root, **settings):
    return DataSettings(dataset="image_folder", root=str(root), image_size=8, workers=0, **settings)


def error_of(settings, call=describe):
    with pytest.raises(DataError) as caught:
        call(settings)
    return str(caught.value)


# --- image_folder


def test_parts_are_folders_and_classes_are_folders_in_them(tmp_path):
    write_image_folder(tmp_path, {"train": 4, "val": 1, "test": 2})
    info = describe(folder_settings(tmp_path))
    assert (info.height, info.width, info.channels, info.class_names) == (8, 8, 3, ("cat", "dog", "owl"))
    assert (info.train_images, info.validation_images) == (12, 3)
    splits = load(folder_settings(tmp_path, validation="own"), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (12, 3, 6)
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.info == describe(folder_settings(tmp_path, validation="own"))


def test_a_part_of_the_training_images_can_be_held_out_instead(tmp_path):
    write_image_folder(tmp_path, {"train": 4, "val": 1, "test": 2})
    splits = load(folder_settings(tmp_path, validation=0.25), seed=0)
    assert (splits.train.num_images, splits.validation.num_images) == (9, 3)


def test_there_may_be_no_validation_folder(tmp_path):
    write_image_folder(tmp_path, {"train": 3, "test": 1})
    assert describe(folder_settings(tmp_path)).validation_images is None
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.raises(ArgumentError, match=r"data\.validation is 'own', but data set 'image_folder' has no"):
            call(folder_settings(tmp_path, validation="own"))


def test_images_are_the_largest_square_in_the_middle(tmp_path):
    write_image_folder(tmp_path, {"train": 2, "test": 1}, classes=("a", "b"))
    stored = read_image(tmp_path / "test" / "a" / "0.png", 3)
    assert stored.shape == (16, 20, 3)
    settings = DataSettings(dataset="image_folder", root=str(tmp_path), image_size=16, validation=0.0, workers=0)
    images, _ = load(settings, seed=0).test.batch(0)
    assert torch.equal(images[0], torch.from_numpy(stored[:, 2:18]) / 255)


def test_grey_on_demand_and_64_pixels_by_default(tmp_path):
    write_image_folder(tmp_path, {"train": 2, "test": 1})
    info = describe(DataSettings(dataset="image_folder", root=str(tmp_path), channels=1))
    assert (info.height, info.width, info.channels) == (64, 64, 1)
    splits = load(folder_settings(tmp_path, channels=1, validation=0.0), seed=0)
    assert splits.train.batch(0)[0].shape == (6, 8, 8, 1)


def test_without_parts_a_fifth_of_each_class_is_for_the_test(tmp_path):
    write_image_folder(tmp_path, {"": 10})
    first, second = (load(folder_settings(tmp_path, validation=0.0), seed=seed) for seed in (0, 1))
    assert torch.bincount(first.test.labels).tolist() == [2, 2, 2]
    assert torch.bincount(first.train.labels).tolist() == [8, 8, 8]
    assert torch.equal(first.test.batch(0)[0], second.test.batch(0)[0])
    pixels = [batches.images_as_uint8() for batches in (first.train, first.test)]
    assert len({image.numpy().tobytes() for part in pixels for image in part}) == 30


def test_folders_in_classes_count_and_hidden_files_do_not(tmp_path):
    write_image_folder(tmp_path, {"train": 2, "test": 1})
    write_image(tmp_path / "train" / "cat" / "more" / "x.JPG")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("")
    assert describe(folder_settings(tmp_path)).train_images == 7


def test_all_that_is_wrong_with_the_folders_is_told_at_once(tmp_path):
    write_image_folder(tmp_path, {"train": 1, "test": 1})
    (tmp_path / "train" / "empty").mkdir()
    write_image(tmp_path / "test" / "ant" / "0.png")
    (tmp_path / "test" / "owl" / "notes.txt").write_text("")
    write_image(tmp_path / "train" / "lost.png")
    message = error_of(folder_settings(tmp_path))
    for text in (
        f"{tmp_path} cannot be used as a data set:",
        f"files outside the class folders: {tmp_path}/train/lost.png",
        f"{tmp_path}/test has a folder 'ant', which train/ does not have",
        f"{tmp_path}/test has no folder 'empty', which train/ has",
        f"1 file whose names do not end as those of images do: {tmp_path}/test/owl/notes.txt",
        "classes without any training image: empty",
    ):
        assert text in message
    assert message == error_of(folder_settings(tmp_path), lambda settings: load(settings, seed=0))


@pytest.mark.parametrize(
    ("parts", "classes", "text"),
    [
        (
            {"train": 1, "val": 1},
            ("a", "b"),
            "there is a folder 'train', but none called 'test'; if you test",
        ),
        ({"test": 1}, ("a", "b"), "there is a folder 'test', but none called 'train'"),
        ({"train": 1, "test": 1}, ("a",), "holds 1 folder, one for each class; at least two are needed"),
        ({"train": 1, "test": 0}, ("a", "b"), "test/ holds no image"),
        ({"": 0}, ("a", "b"), "classes without any training image: a, b"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, parts, classes, text):
    write_image_folder(tmp_path, parts, classes)
    for part in parts:
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
    assert text in error_of(folder_settings(tmp_path))


def test_a_folder_that_is_not_there_or_not_named(tmp_path):
    assert f"{tmp_path / 'none'}: there is no such folder" in error_of(folder_settings(tmp_path / "none"))
    with pytest.raises(ValueError, match="'image_folder' needs 'root'"):
        DataSettings(dataset="image_folder")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_when_it_is_decoded(tmp_path, workers):
    write_image_folder(tmp_path, {"train": 30, "test": 1})
    wrong = tmp_path / "train" / "owl" / "29.png"
    wrong.write_bytes(wrong.read_bytes()[:100])
    settings = folder_settings(tmp_path).model_copy(update={"workers": workers})
    message = error_of(settings, lambda settings: load(settings, seed=0))
    assert message.startswith(f"{wrong} cannot be read as an image: ")
    assert "Traceback" not in message


# --- h_imagenet


def write_imagenet(root, train=3, val=2, classes=WNIDS):
    """The layout of torchvision's ImageNet."""
    seed = 0
    for name in classes:
        for number in range(train):
            write_image(root / "train" / name / f"{name}_{number}.JPEG", seed=(seed := seed + 1))
        for _ in range(val):
            write_image(root / "val" / name / f"ILSVRC2012_val_{seed:08}.JPEG", seed=(seed := seed + 1))
    return root


def class_list(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def imagenet(root, **settings):
    return DataSettings(dataset="h_imagenet", root=str(root), image_size=8, workers=0, **settings)


@pytest.mark.parametrize("subfolder", ["", "imagenet"])
def test_the_classes_of_the_list_in_the_layout_of_torchvision(tmp_path, subfolder):
    write_imagenet(tmp_path / subfolder)
    chosen = class_list(tmp_path / "hard.txt", "# hardest", WNIDS[2], "", f"{WNIDS[0]}  # tench")
    info = describe(imagenet(tmp_path, class_list=chosen))
    assert info.class_names == (WNIDS[0], WNIDS[2])
    splits = load(imagenet(tmp_path, class_list=chosen, validation=0.5), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (3, 3, 4)
    assert splits.info.class_names == info.class_names
    last = sorted((tmp_path / subfolder / "val" / WNIDS[2]).iterdir())[-1]
    stored = torch.from_numpy(read_image(last, 3)[:, 2:18])[None]
    assert torch.equal(splits.test.batch(0)[0][-1:], resize(stored, 8, 8) / 255)


def test_without_a_list_all_classes_count(tmp_path):
    write_imagenet(tmp_path)
    assert describe(imagenet(tmp_path)).class_names == WNIDS
    assert describe(DataSettings(dataset="h_imagenet", root=str(tmp_path))).height == 128


def test_a_list_is_enough_to_describe_what_is_not_on_this_machine(tmp_path):
    settings = imagenet(tmp_path, class_list=class_list(tmp_path / "a.txt", *WNIDS))
    assert describe(settings).classes == 3
    message = error_of(settings, lambda settings: load(settings, seed=0))
    assert "cannot be downloaded without an account" in message
    assert f"  {tmp_path}/imagenet\n  {tmp_path}\n" in message
    assert "https://image-net.org" in message


def test_imagenets_val_is_the_test_part(tmp_path):
    write_imagenet(tmp_path)
    with pytest.raises(ArgumentError, match="'h_imagenet' has no validation part"):
        describe(imagenet(tmp_path, validation="own"))


@pytest.mark.parametrize("inner", ["", "train"])
def test_images_are_cut_to_their_boxes(tmp_path, inner):
    write_imagenet(tmp_path / "images")
    boxes = tmp_path / "boxes"
    first, second = (f"{WNIDS[0]}_{number}" for number in (0, 1))
    write_voc_boxes(boxes / inner / WNIDS[0] / f"{first}.xml", (4, 2, 12, 10))
    settings = imagenet(tmp_path / "images", boxes=str(boxes), validation=0.0)
    images = load(settings, seed=0).train.unchanged().batch(0)[0]
    train = tmp_path / "images" / "train" / WNIDS[0]
    assert torch.equal(images[0], torch.from_numpy(read_image(train / f"{first}.JPEG", 3)[2:10, 4:12]) / 255)
    whole = load(imagenet(tmp_path / "images", validation=0.0), seed=0).train.unchanged().batch(0)[0]
    assert torch.equal(images[1], whole[1])
    assert second in sorted(path.stem for path in train.iterdir())


def test_boxes_that_are_not_there(tmp_path):
    write_imagenet(tmp_path / "images")
    settings = imagenet(tmp_path / "images", boxes=str(tmp_path / "none"))
    assert "there is no such folder (data.boxes)" in error_of(settings, lambda settings: load(settings, seed=0))
    (tmp_path / "none").mkdir()
    assert "there are no boxes" in error_of(settings, lambda settings: load(settings, seed=0))


def test_folders_that_are_not_imagenets(tmp_path):
    write_imagenet(tmp_path, classes=WNIDS[:2])
    (tmp_path / "train" / WNIDS[2]).mkdir()
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "train" / WNIDS[0] / "readme.txt").write_text("")
    message = error_of(
        imagenet(tmp_path, class_list=class_list(tmp_path / "a.txt", *WNIDS)), lambda settings: load(settings, seed=0)
    )
    for text in (
        f"{tmp_path}/train: classes without any image: {WNIDS[2]}",
        f"{tmp_path}/val has no folders of these classes (its images are not in folders: sort them by class)",
        "train/n01440764/readme.txt",
    ):
        assert text in message


def test_mistakes_in_a_class_list_are_told_with_their_lines(tmp_path):
    path = class_list(tmp_path / "a.txt", WNIDS[0], "dog", "# none", WNIDS[1], WNIDS[0], "n123")
    with pytest.raises(DataError) as caught:
        read_class_list(tmp_path / "a.txt")
    assert str(caught.value).splitlines() == [
        f"{path} is not a list of classes:",
        f"  {path}:2: 'dog' is not a WordNet id: n and eight digits, for example n02119789",
        f"  {path}:5: '{WNIDS[0]}' is already on line 1",
        f"  {path}:6: 'n123' is not a WordNet id: n and eight digits, for example n02119789",
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "there is no such file (data.class_list)"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"n01440764\n", "names 1 classes; at least two are needed"),
    ],
)
def test_what_is_no_class_list(tmp_path, content, text):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    assert text in error_of(imagenet(tmp_path, class_list=str(path)))


def test_h_imagenet_can_be_grey(tmp_path):
    write_imagenet(tmp_path)
    assert load(imagenet(tmp_path, channels=1), seed=0).test.batch(0)[0].shape == (6, 8, 8, 1)


def test_small_images_lie_in_memory_and_draw_alike(tmp_path, monkeypatch):
    write_image_folder(tmp_path, {"train": 6, "test": 2})
    settings = folder_settings(tmp_path, batch_size=4, augment={"resize": 12, "crop": True, "mirror": True, "pad": 2})
    settings = settings.model_copy(update={"validation": 0.25})
    memory = load(settings, seed=3)
    monkeypatch.setattr("encapkeras.data.splits.IN_MEMORY", 0)
    files = load(settings, seed=3)
    for part in ("train", "validation", "test"):
        for (images, labels), (again, same) in zip(getattr(memory, part), getattr(files, part), strict=True):
            assert torch.equal(images, again)
            assert torch.equal(labels, same)
    assert np.array_equal(memory.train.images_as_uint8(5), files.train.images_as_uint8(5))


def test_paths_in_a_spec_begin_at_its_folder(tmp_path):
    write_imagenet(tmp_path / "images")
    class_list(tmp_path / "hard.txt", *WNIDS[:2])
    data = "{dataset: h_imagenet, root: images, class_list: hard.txt, boxes: boxes, image_size: 32, channels: 1}"
    (tmp_path / "mine.yaml").write_text(f"extends: quickstart.yaml\ndata: {data}\n")
    spec = load_spec(tmp_path / "mine.yaml")
    assert (spec.info.class_names, spec.info.channels) == (WNIDS[:2], 1)
    assert [spec.data.root, spec.data.class_list, spec.data.boxes] == [
        str(tmp_path / name) for name in ("images", "hard.txt", "boxes")
    ]


# --- folders that are not used, and links


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev"])
def test_a_validation_folder_of_another_name_is_said(tmp_path, name):
    write_image_folder(tmp_path, {"train": 5, name: 2, "test": 2})
    text = rf"folders that are not used: '{name}' \(call it 'val' to use it\)"
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.warns(UserWarning, match=text):
            call(folder_settings(tmp_path))
        with pytest.warns(UserWarning, match=text), pytest.raises(ArgumentError, match=text):
            call(folder_settings(tmp_path, validation="own"))


def test_any_other_folder_beside_the_parts_is_said(tmp_path):
    write_image_folder(tmp_path, {"train": 5, "tests": 2, "test": 2, "valid": 1, "val": 1})
    with pytest.warns(UserWarning, match=r"folders that are not used: 'tests', 'valid'$"):
        describe(folder_settings(tmp_path))
    for number in range(9):
        (tmp_path / f"more{number}").mkdir()
    with pytest.warns(UserWarning, match="'more0', 'more1', 'more2', 'more3', 'more4', and 6 more"):
        describe(folder_settings(tmp_path))


def test_a_folder_that_is_not_used_is_a_warning_in_a_spec(tmp_path):
    write_image_folder(tmp_path / "photos", {"train": 5, "valid": 2, "test": 2})
    (tmp_path / "a.yaml").write_text(
        "extends: quickstart.yaml\ndata: {dataset: image_folder, root: photos, image_size: 32, channels: 1}\n"
    )
    [warning] = [found for found in check_spec(tmp_path / "a.yaml").warnings if "not used" in found.message]
    assert (warning.path, warning.line) == ("data.root", 2)


def test_parts_of_other_names_are_not_classes(tmp_path):
    write_image_folder(tmp_path, {"Train": 2, "Testing": 1})
    assert "rename 'Testing' to 'test', 'Train' to 'train'" in error_of(folder_settings(tmp_path))


def test_classes_may_be_called_like_one_part(tmp_path):
    write_image_folder(tmp_path, {"": 3}, classes=("car", "Train"))
    assert describe(folder_settings(tmp_path)).class_names == ("Train", "car")


def test_folders_of_imagenet_that_are_no_classes_are_said(tmp_path):
    write_imagenet(tmp_path)
    (tmp_path / "train" / "n0144076").mkdir()
    with pytest.warns(UserWarning, match="not n and eight digits: n0144076"):
        assert describe(imagenet(tmp_path)).class_names == WNIDS


def test_boxes_of_other_images(tmp_path):
    write_imagenet(tmp_path / "images")
    write_voc_boxes(tmp_path / "boxes" / "train" / "other.xml", (4, 2, 12, 10))
    settings = imagenet(tmp_path / "images", boxes=str(tmp_path / "boxes"))
    assert "there are no boxes of these images" in error_of(settings, lambda settings: load(settings, seed=0))


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "@eaDir/x.jpg", "__MACOSX/._1.png"])
def test_what_systems_leave_behind_is_neither_image_nor_class(tmp_path, name):
    write_image_folder(tmp_path, {"train": 2, "test": 1})
    for folder in ("", "train", "train/cat", "test/owl"):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    info = describe(folder_settings(tmp_path))
    assert (info.class_names, info.train_images) == (("cat", "dog", "owl"), 6)


def test_links_to_folders_around_add_nothing_and_end(tmp_path):
    write_image_folder(tmp_path, {"train": 2, "test": 1})
    cat = tmp_path / "train" / "cat"
    for name, target in {"a": cat, "b": cat.parent, "c": tmp_path}.items():
        (cat / name).symlink_to(target)
    last = cat
    for _ in range(40):  # 2^40 paths
        (last / "x").mkdir()
        (last / "y").symlink_to(last / "x")
        last = last / "x"
    write_image(last / "deep.png")
    write_image(tmp_path / "elsewhere" / "1.png")
    (cat / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="'elsewhere'"):
        assert describe(folder_settings(tmp_path)).train_images == 6 + 2


def test_a_named_pipe_as_a_class_list(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert "cannot be read as text" in error_of(imagenet(tmp_path, class_list=str(tmp_path / "a.txt")))


@pytest.mark.parametrize("root", ["~nobody-of-this-name/photos", "x" * 5000])
def test_a_root_that_no_system_can_have(root):
    assert "there is no such" in error_of(DataSettings(dataset="image_folder", root=root))
    assert "there is no such" in error_of(DataSettings(dataset="npz", path=root))


def test_a_working_folder_that_was_deleted(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "seen from a folder that was deleted" in error_of(DataSettings(dataset="image_folder", root="photos"))
    assert "seen from a folder that was deleted" in error_of(DataSettings(dataset="npz", path="a.npz"))
