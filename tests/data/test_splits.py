import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from support.dataset_files import cycling_labels, random_images, write_npz

from encapkeras.data import AugmentSettings, DataSettings, describe, load
from encapkeras.data.splits import held_out_indices
from encapkeras.errors import ArgumentError, DataError


def numbered_npz(path, train=50):
    """Images whose first pixel is their number, so that each can be recognised."""
    numbers = np.arange(train, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None], (train, 2, 2))
    return write_npz(path, train_images=images, train_labels=cycling_labels(train, 3), test_images=images[:6])


def numbers_in(batches):
    return [int(number) for images, _ in batches for number in (images[:, 0, 0, 0] * 255).round()]


def npz_splits(path, *, seed=0, **settings):
    return load(DataSettings(dataset="npz", path=str(path), **settings), seed=seed)


def test_parts_share_no_image_and_lose_none(tmp_path):
    splits = npz_splits(numbered_npz(tmp_path / "a.npz"), validation=0.3)
    train, validation = numbers_in(splits.train), numbers_in(splits.validation)
    assert len(validation) == splits.validation.num_images == 15
    assert sorted(train + validation) == list(range(50))
    assert validation == sorted(validation)
    assert numbers_in(splits.test) == list(range(6))


def test_the_seed_alone_decides_what_is_held_out(tmp_path):
    path = numbered_npz(tmp_path / "a.npz")
    first = numbers_in(npz_splits(path).validation)
    changed = npz_splits(path, batch_size=3, augment=AugmentSettings(mirror=True))
    assert numbers_in(changed.validation) == first
    assert numbers_in(npz_splits(path, seed=1).validation) != first


def test_without_validation_all_images_are_for_training(tmp_path):
    splits = npz_splits(numbered_npz(tmp_path / "a.npz"), validation=0.0)
    assert splits.validation is None
    assert splits.train.num_images == 50


@given(count=st.integers(2, 400), seed=st.integers(0, 2**40), data=st.data())
def test_held_out_indices_are_distinct_and_ascending(count, seed, data):
    fraction = data.draw(st.floats(1 / count, 1 - 1 / count))
    held_out = held_out_indices(count, fraction, seed)
    assert len(held_out) == round(fraction * count)
    assert (np.diff(held_out) > 0).all()
    assert len(held_out) == 0 or (held_out[0] >= 0 and held_out[-1] < count)


@pytest.mark.parametrize(("fraction", "what"), [(0.01, "no image"), (0.99, "all images")])
def test_a_part_that_would_be_empty(tmp_path, fraction, what):
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(
        ArgumentError, match=rf"data\.validation = {fraction} of 12 training images would hold out {what}"
    ):
        npz_splits(path, validation=fraction)


def test_a_negative_seed():
    with pytest.raises(ArgumentError, match="seed must be at least 0; received -1"):
        load(DataSettings(dataset="digits"), seed=-1)


@pytest.mark.parametrize("image_size", [None, 8])
def test_describe_tells_what_the_batches_are(tmp_path, image_size):
    path = write_npz(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "cat"]))
    settings = DataSettings(dataset="npz", path=str(path), image_size=image_size)
    info, splits = describe(settings), load(settings, seed=0)
    assert info == splits.info
    for part in (splits.train, splits.validation, splits.test):
        assert part.batch(0)[0].shape[1:] == (info.height, info.width, info.channels)
    assert (info.height, info.width) == ((8, 8) if image_size else (6, 5))
    assert (info.channels, info.classes, info.class_names) == (1, 3, ("ant", "bee", "cat"))


@pytest.mark.parametrize(
    ("name", "channels", "classes"),
    [
        ("digits", 1, 10),
        ("mnist", 1, 10),
        ("fashion_mnist", 1, 10),
        ("cifar10", 3, 10),
        ("cifar100", 3, 100),
        ("svhn", 3, 10),
    ],
)
def test_built_in_data_sets_are_described_without_their_files(name, channels, classes):
    info = describe(DataSettings(dataset=name, root="no such folder"))
    assert (info.height, info.width, info.channels, info.classes) == (32, 32, channels, classes)
    assert len(set(info.class_names)) == classes
    assert describe(DataSettings(dataset=name, image_size=20)).width == 20


def test_evaluation_is_resized_as_training_is_and_cut_at_the_centre(tmp_path):
    images = random_images(12, 10, 10, 3)
    path = write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:6])
    splits = npz_splits(path, image_size=8, augment=AugmentSettings(resize=10, crop=True, mirror=True))
    assert torch.equal(splits.test.batch(0)[0], torch.from_numpy(images[:6, 1:9, 1:9]) / 255)


def test_augmentation_is_checked_against_the_images(tmp_path):
    path = str(write_npz(tmp_path / "a.npz"))
    for augment, text in [
        ({"resize": 8}, "augment.resize is for square images; these are 6x5"),
        ({"resize": 8, "crop": True}, "Set data.image_size"),
        ({"crop": True}, "augment.crop is for square images; these are 6x5"),
        ({"hue": 0.1}, "only change colour images (3 channels); these have 1"),
    ]:
        settings = DataSettings(dataset="npz", path=path, augment=AugmentSettings(**augment))
        for call in (describe, lambda settings: load(settings, seed=0)):
            with pytest.raises(ArgumentError) as caught:
                call(settings)
            assert text in str(caught.value)


def test_images_that_image_size_makes_square_can_be_resized(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    splits = npz_splits(path, image_size=6, augment=AugmentSettings(resize=8, crop=True))
    assert splits.train.batch(0)[0].shape[1:] == (6, 6, 1)


def test_digits_are_complete_balanced_and_always_split_alike():
    splits = load(DataSettings(dataset="digits", validation=0.0), seed=0)
    assert (splits.train.num_images, splits.test.num_images) == (1437, 360)
    assert torch.bincount(splits.test.labels).min() >= 34
    assert torch.equal(load(DataSettings(dataset="digits"), seed=9).test.labels, splits.test.labels)
    images, _ = splits.test.batch(0)
    assert images.shape == (64, 32, 32, 1)
    assert images.max() > 0.95
    assert images.min() == 0


def test_a_missing_npz_is_a_data_error_for_describe_too(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        describe(DataSettings(dataset="npz", path=str(tmp_path / "none.npz")))
