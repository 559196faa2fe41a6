"""A single image is prepared exactly as `load` prepares test images."""

import numpy as np
import pytest
import torch
from support.dataset_files import random_images, write_image_folder, write_npz

from encapkeras.data import DatasetInfo, DataSettings, load, prepare, read_image
from encapkeras.errors import DataError

GREY = DatasetInfo(8, 8, 1, 2, ("a", "b"))
COLOUR = DatasetInfo(8, 8, 3, 2, ("a", "b"))


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (11, 7), (5, 30)])
@pytest.mark.parametrize("resize", [None, 12])
@pytest.mark.parametrize("floats", [False, True])
def test_an_array_becomes_what_a_test_image_of_npz_does(tmp_path, shape, resize, floats):
    images = random_images(3, *shape, 3)
    images = images / 255 if floats else images
    path = write_npz(tmp_path / "a.npz", train_images=images.repeat(4, 0), test_images=images.repeat(2, 0))
    augment = {"resize": resize, "crop": True} if resize else None
    settings = DataSettings(dataset="npz", path=str(path), image_size=8, augment=augment, batch_size=6)
    splits = load(settings, seed=0)
    tested = splits.test.batch(0)[0][::2]
    for image, expected in zip(images, tested, strict=True):
        assert torch.equal(prepare(image, splits.info, resize), expected[None])


def test_a_file_becomes_what_a_test_image_of_image_folder_does(tmp_path):
    write_image_folder(tmp_path, {"train": 2, "test": 1}, ending=".jpg")
    settings = DataSettings(
        dataset="image_folder", root=str(tmp_path), image_size=8, channels=1, validation=0.0, workers=0
    )
    splits = load(settings, seed=0)
    image = read_image(tmp_path / "test" / "dog" / "0.jpg", channels=1)
    assert torch.equal(prepare(image, splits.info), splits.test.batch(0)[0][1:2])


def test_grey_is_repeated_and_colours_become_grey():
    [colour] = random_images(1, 8, 8, 3)
    grey = colour[..., 0]
    assert torch.equal(
        prepare(grey, COLOUR), torch.from_numpy(grey / np.float32(255))[None, ..., None].expand(1, 8, 8, 3)
    )
    made = prepare(colour, GREY)[0, ..., 0]
    assert (made - torch.from_numpy(colour @ [0.299, 0.587, 0.114] / 255)).abs().max() <= 0.51 / 255
    assert prepare(colour / 255, GREY).dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((2, 2, 2, 3), np.uint8), "received uint8 (2, 2, 2, 3)"),
        (np.zeros((0, 4), np.uint8), "received uint8 (0, 4)"),
        (np.zeros((4, 4), np.int64), "received int64 (4, 4)"),
        (np.full((4, 4), 2.0), "floats of an image must be in [0, 1]; these range from 2.0 to 2.0"),
        (np.full((4, 4), np.nan), "floats of an image must be in [0, 1]"),
        (np.zeros((4, 4, 4), np.uint8), "the network takes images of 3 channels; this one has 4"),
    ],
)
def test_what_is_no_image_is_refused(image, text):
    with pytest.raises(DataError) as caught:
        prepare(image, COLOUR)
    assert text in str(caught.value)


@pytest.mark.parametrize(("info", "shape"), [(COLOUR, (3, 32, 32)), (GREY, (1, 28, 28))])
def test_an_image_whose_channels_come_first(info, shape):
    with pytest.raises(
        DataError, match=r"looks like \(C, H, W\), but channels come last: use images.transpose\(1, 2, 0\)"
    ):
        prepare(random_images(1, *shape)[0], info)
