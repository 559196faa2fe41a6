"""Images with a class for each pixel: made shapes, folders of masks, changes that move both, and what is wrong."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from encapkeras.data import AugmentSettings, Batches, DataSettings, describe, load, register_dataset
from encapkeras.data.fingerprint import data_differences
from encapkeras.data.mask_files import read_mask
from encapkeras.data.registry import DATASETS, DatasetInfo, DatasetReader, ImageArrays
from encapkeras.errors import ArgumentError, DataError

CLASSES = ["back", "cat", "dog"]


def shapes(**settings):
    return DataSettings(dataset="shapes", images=40, **settings)


def write_masks(root, parts, size=(12, 10), classes=3):
    """Write images whose red channel is 50 times the class of each pixel, and their masks."""
    random = np.random.default_rng(0)
    for part, count in parts.items():
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for index in range(count):
            mask = random.integers(0, classes, size).astype(np.uint8)
            image = np.stack([50 * mask, random.integers(0, 255, size).astype(np.uint8), 0 * mask], 2)
            Image.fromarray(image).save(root / part / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{index}.png")


def folder(root, **settings):
    return DataSettings(dataset="mask_folder", root=str(root), classes=CLASSES, workers=0, **settings)


def error_of(settings):
    with pytest.raises(DataError) as caught:
        load(settings, seed=0)
    return str(caught.value)


# --- shapes


def test_shapes_have_a_class_for_each_pixel():
    info = describe(shapes())
    assert (info.input_shape, info.output_shape, info.task) == ((32, 32, 1), (32, 32, 4), "segments")
    splits = load(shapes(batch_size=16), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (36, 4, 10)
    images, masks = splits.train.batch(0)
    assert (images.shape, masks.shape, masks.dtype) == ((16, 32, 32, 1), (16, 32, 32), torch.int64)
    assert masks.unique().tolist() == [0, 1, 2, 3]


def test_shapes_are_seeded():
    first, again, other = (shapes(**seed).reader().read() for seed in ({}, {"seed": 0}, {"seed": 1}))
    assert np.array_equal(first.train_images, again.train_images)
    assert np.array_equal(first.train_labels, again.train_labels)
    assert not np.array_equal(first.train_labels, other.train_labels)
    assert not np.array_equal(first.train_labels[:10], first.test_labels)


def test_shapes_of_all_classes_are_as_large():
    arrays = DataSettings(dataset="shapes", images=2000, size=48).reader().read()
    areas = np.bincount(arrays.train_labels.reshape(-1))[1:]
    assert areas.min() > 0.9 * areas.max()  # triangles reach out of the image a little more often
    gray = arrays.train_images[..., 0] / 255
    for label in range(1, 4):  # no class is brighter than the others
        assert 0.4 < gray[arrays.train_labels == label].mean() < 0.6


def test_the_outline_of_a_shape_says_what_it_is():
    reader = DataSettings(dataset="shapes", size=64).reader()
    random = np.random.default_rng(0)
    for label, corners in ((1, 0), (2, 4), (3, 3)):
        inside = reader._inside(random, np.full(50, label))
        whole = [mask for mask in inside if not (mask[[0, -1]].any() or mask[:, [0, -1]].any())]
        reached = []
        for mask in whole:
            places = np.argwhere(mask)
            reached.append(np.linalg.norm(places - places.mean(0), axis=1).max() / np.sqrt(len(places) / np.pi))
        largest = {0: 1.0, 4: np.sqrt(np.pi / 2), 3: np.sqrt(4 * np.pi / (3 * np.sqrt(3)))}[corners]
        assert np.median(reached) == pytest.approx(largest, rel=0.05)


@pytest.mark.parametrize(
    "arguments, message", [({"images": 3}, "at least 4; received 3"), ({"size": 8}, "at least 16; received 8")]
)
def test_impossible_shapes(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DataSettings(dataset="shapes", **arguments).reader()


# --- masks move with their images


@pytest.mark.parametrize(
    "changes", [{"mirror": True}, {"resize": 14, "crop": True}, {"crop": True, "resize": 14, "mirror": True}]
)
def test_masks_move_with_their_images(tmp_path, changes):
    """The red channel of an image is its mask, and nothing is between two pixels: 14 of 14."""
    write_masks(tmp_path, {"train": 20, "test": 2}, size=(14, 14))
    size = 10 if "crop" in changes else 14
    splits = load(folder(tmp_path, image_size=size, augment=AugmentSettings(**changes), validation=0.0), seed=0)
    first = None
    for epoch in range(2):
        images, masks = splits.train.batch(0, epoch)
        assert torch.equal((images[..., 0] * 255 / 50).round().long(), masks)
        assert first is None or not torch.equal(masks, first)
        first = masks


def test_colors_change_without_masks():
    plain, changed = (load(shapes(validation=0.0, **more), seed=0) for more in ({}, {"augment": {"brightness": 0.5}}))
    (images, masks), (others, same) = plain.train.batch(0), changed.train.batch(0)
    assert torch.equal(masks, same)
    assert not torch.equal(images, others)


@pytest.mark.parametrize("changes", [{"affine": {}}, {"overlap": 2}, {"augment": {"pad": 2, "crop": True}}], ids=str)
def test_what_moves_images_alone_is_refused(changes):
    name = "data.augment.pad" if "augment" in changes else f"data.{next(iter(changes))}"
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.raises(ArgumentError, match=f"{name} does not fit masks"):
            call(shapes(**changes))


def test_images_are_not_drawn_by_the_classes_of_pixels():
    with pytest.raises(ArgumentError, match=r"data.balance draws images by their class; .* each pixel has a class"):
        describe(shapes(balance=True))
    images, masks = torch.zeros(2, 4, 4, 1), torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match="needs one class for each image"):
        Batches(images, masks, height=4, width=4, batch_size=2, balance=True)


def test_masks_are_resized_without_new_classes(tmp_path):
    write_masks(tmp_path, {"train": 3, "test": 1}, size=(30, 40))
    splits = load(folder(tmp_path, image_size=16, validation=0.0), seed=0)
    images, masks = splits.test.batch(0)
    assert (images.shape, masks.shape) == ((1, 16, 16, 3), (1, 16, 16))
    stored = np.asarray(Image.open(tmp_path / "test" / "masks" / "0.png"))[:, 5:35]
    nearest = np.floor((np.arange(16) + 0.5) * 30 / 16).astype(int)
    assert np.array_equal(masks[0].numpy(), stored[nearest][:, nearest])


def test_chosen_images_have_their_masks():
    batches = load(shapes(), seed=0).train
    unchanged, chosen = batches.unchanged(), batches.take(np.array([3, 1]))
    images, masks = chosen.batch(0)
    every, of_every = unchanged.batch(0)
    assert torch.equal(images, every[[3, 1]])
    assert torch.equal(masks, of_every[[3, 1]])


def test_masks_of_another_size_than_images():
    with pytest.raises(ArgumentError, match=r"masks must be as large as their images; received masks \(2, 5, 4\)"):
        Batches(torch.zeros(2, 4, 4, 1), torch.zeros(2, 5, 4, dtype=torch.uint8), height=4, width=4, batch_size=2)


def test_parts_of_processes_have_all_masks():
    batches = load(shapes(batch_size=8), seed=0).test
    whole, part = batches.batch(0), next(iter(batches.only_part(1, 2)))
    assert torch.equal(whole[1], part[1])


# --- folders


def test_parts_and_their_order(tmp_path):
    write_masks(tmp_path, {"train": 4, "val": 2, "test": 3})
    info = describe(folder(tmp_path, image_size=8, validation="own"))
    assert (info.class_names, info.train_images, info.validation_images) == (tuple(CLASSES), 4, 2)
    assert info.output_shape == (8, 8, 3)
    splits = load(folder(tmp_path, image_size=8, validation="own"), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (4, 2, 3)


def test_without_parts_a_fifth_is_for_the_test(tmp_path):
    write_masks(tmp_path, {"": 10})
    first, second = (load(folder(tmp_path, image_size=8, validation=0.0), seed=seed) for seed in (0, 1))
    assert (first.train.num_images, first.test.num_images) == (8, 2)
    assert torch.equal(first.test.batch(0)[1], second.test.batch(0)[1])


def test_names_are_paired_without_their_endings_and_palettes_are_numbers(tmp_path):
    write_masks(tmp_path, {"train": 1, "test": 1})
    place = tmp_path / "train" / "masks" / "0.png"
    mask = Image.open(place)
    expected = np.asarray(mask)
    with_palette = mask.convert("P")
    with_palette.putdata(expected.flatten().tolist())
    with_palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    with_palette.save(place)
    image = tmp_path / "train" / "images" / "0.png"
    Image.open(image).save(image.with_suffix(".jpg"))
    image.unlink()
    splits = load(folder(tmp_path, image_size=10, validation=0.0), seed=0)
    assert np.array_equal(splits.train.unchanged().batch(0)[1][0].numpy(), expected[1:11])


@pytest.mark.parametrize(("bits", "packed"), [(2, [[0b00011011]]), (4, [[0x01, 0x23]])])
def test_gray_values_of_few_bits_are_numbers(tmp_path, bits, packed):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(bytes([0, *row]) for row in packed)))
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    assert read_mask(tmp_path / "mask.png", classes=4).tolist() == [[0, 1, 2, 3]]


def test_all_names_that_do_not_pair_are_listed(tmp_path):
    write_masks(tmp_path, {"train": 4, "test": 2})
    (tmp_path / "train" / "masks" / "1.png").unlink()
    (tmp_path / "train" / "images" / "2.png").unlink()
    (tmp_path / "test" / "masks" / "0.png").rename(tmp_path / "test" / "masks" / "0.jpg")
    message = error_of(folder(tmp_path))
    for part in (
        f"1 image without a mask: {tmp_path}/train/images/1.png",
        f"1 mask without an image: {tmp_path}/train/masks/2.png",
        f"do not end as those of masks, which are PNG files, do: {tmp_path}/test/masks/0.jpg",
        f"1 image without a mask: {tmp_path}/test/images/0.png",
    ):
        assert part in message


def test_classes_of_the_same_name(tmp_path):
    write_masks(tmp_path, {"train": 2, "test": 1})
    with pytest.raises(DataError, match="2 classes are called 'cat'; give each class a name of its own"):
        describe(DataSettings(dataset="mask_folder", root=str(tmp_path), classes=["back", "cat", "cat"]))


def test_image_folder_hints_at_masks(tmp_path):
    write_masks(tmp_path, {"train": 2, "test": 1})
    with pytest.warns(UserWarning, match="folders are called images and masks.*choose data set 'mask_folder'"):
        describe(DataSettings(dataset="image_folder", root=str(tmp_path)))


def test_missing_folders(tmp_path):
    assert "there is no such folder" in error_of(folder(tmp_path / "nowhere"))
    assert "has no folder 'images' and no folder 'masks'" in error_of(folder(tmp_path))
    write_masks(tmp_path, {"train": 2})
    assert "there is a folder 'train', but none called 'test'" in error_of(folder(tmp_path))
    for kind in ("images", "masks"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    assert "test: there are no images" in error_of(folder(tmp_path))


def test_a_folder_beside_the_parts_is_said(tmp_path):
    write_masks(tmp_path, {"train": 2, "validation": 2, "test": 2})
    with pytest.warns(UserWarning, match=r"folders that are not used: 'validation' \(call it 'val' to use it\)"):
        describe(folder(tmp_path))


def test_masks_that_cannot_be_used_are_all_named(tmp_path):
    write_masks(tmp_path, {"train": 4, "test": 1})
    masks = tmp_path / "train" / "masks"
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(masks / "0.png")
    wrong = np.zeros((12, 10), np.uint8)
    wrong[3, 4] = 255
    Image.fromarray(wrong).save(masks / "1.png")
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(masks / "2.png")
    (masks / "3.png").write_bytes((masks / "3.png").read_bytes()[:60])
    message = error_of(folder(tmp_path, validation=0.0))
    image = f"{tmp_path}/train/images/0.png"
    for part in (
        f"{masks}/0.png: the mask has 12 x 12 pixels (rows x columns), and its image, {image}, 12 x 10",
        f"{masks}/1.png: 1 of its 120 pixels are not classes, the first is 255 in row 3, column 4; there are 3 ",
        "classes, from 0 to 2. Use 0 and 1 in place of 0 and 255",
        f"{masks}/2.png cannot be read as a mask: its pixels are colors (RGB)",
        f"{masks}/3.png cannot be read as a mask",
    ):
        assert part in message


def test_masks_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("encapkeras.data.windows.AT_ONCE", 2)
    write_masks(tmp_path, {"train": 5, "test": 1})
    settings = folder(tmp_path, image_size=8, validation=0.0)
    splits = [load(settings.model_copy(update={"workers": workers}), seed=0) for workers in (0, 2)]
    assert torch.equal(*(each.train.labels for each in splits))
    for number in (1, 4):
        (tmp_path / "train" / "masks" / f"{number}.png").write_bytes(b"")
    message = error_of(settings.model_copy(update={"workers": 2}))
    assert all(f"masks/{number}.png cannot be read as a mask" in message for number in (1, 4))


def test_a_class_without_a_pixel_is_said(tmp_path):
    write_masks(tmp_path, {"train": 2, "test": 1}, classes=2)
    with pytest.warns(UserWarning, match="no mask of the training images has a pixel of dog, so that no network"):
        load(folder(tmp_path, image_size=8, validation=0.0), seed=0)


def test_a_turned_photo_has_a_mask_as_it_is_seen(tmp_path):
    write_masks(tmp_path, {"train": 2, "test": 1}, size=(12, 10))
    photo = tmp_path / "test" / "images" / "0.png"
    turned = Image.open(photo).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    turned.save(photo, exif=exif)
    load(folder(tmp_path, image_size=8, validation=0.0), seed=0)


# --- others


@pytest.mark.parametrize("parts", [{"": 10}, {"train": 4, "test": 2}], ids=str)
def test_images_with_masks_may_move(tmp_path, parts):
    write_masks(tmp_path / "here", parts)
    before = load(folder(tmp_path / "here", validation=0.0), seed=0).fingerprint
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(folder(tmp_path / "there", validation=0.0), seed=0).fingerprint == before


def test_masks_that_changed_are_told_apart(tmp_path):
    def found(seed=0):
        return load(folder(tmp_path, image_size=8, validation=0.0), seed=seed).fingerprint

    write_masks(tmp_path, {"train": 3, "test": 2})
    before = found()
    assert data_differences(before, found(seed=1)) == ""
    Image.fromarray(np.ones((12, 10), np.uint8)).save(tmp_path / "test" / "masks" / "0.png")
    assert data_differences(before, found()) == "the test masks are others"
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind / "2.png").unlink()
    assert data_differences(before, found()) == "3 training images there, 2 here; the test masks are others"


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.zeros(4, np.int64), r"gives labels of shape \(4,\); its description says that each pixel has a class"),
        (np.full((4, 8, 8), 3), "gives masks with values from 3 to 3; there are 3 classes, from 0 to 2"),
        (np.zeros((4, 8, 9), np.uint8), r"gives masks \(4, 8, 9\) of images \(4, 8, 8, 1\)"),
    ],
    ids=["no masks", "no classes", "another size"],
)
def test_a_data_set_of_ones_own_is_checked(masks, message):
    @register_dataset("own_masks")
    class OwnMasks(DatasetReader):
        """Masks."""

        def describe(self):
            return DatasetInfo(8, 8, 1, 3, ("a", "b", "c"), 4, task="segments")

        def read(self):
            images = np.zeros((4, 8, 8, 1), np.uint8) + np.uint8(200)
            return ImageArrays(images, masks, images, masks)

    try:
        with pytest.raises((DataError, ArgumentError), match=message):
            load(DataSettings(dataset="own_masks", validation=0.0), seed=0)
    finally:
        DATASETS.forget(["own_masks"])
