import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from support.dataset_files import cycling_labels, random_images, write_npz, write_svhn_files

from encapkeras.data import (
    DATASETS,
    AugmentSettings,
    Batches,
    DatasetInfo,
    DatasetReader,
    DataSettings,
    ImageArrays,
    describe,
    load,
    register_dataset,
)
from encapkeras.data.splits import balanced_order, balanced_sample, held_out_indices, subset_indices
from encapkeras.errors import ArgumentError, DataError


def numbered_npz(path, train=50):
    """Images whose first pixel is their number, so that each can be recognised."""
    numbers = np.arange(train, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None], (train, 2, 2))
    return write_npz(path, train_images=images, train_labels=cycling_labels(train, 3), test_images=images[-6:])


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
    assert numbers_in(splits.test) == list(range(44, 50))


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
        ({"hue": 0.1}, "only change color images (3 channels); these have 1"),
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


# --- a subset


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), seed=st.integers(0, 2**40), share=st.floats(0, 1))
def test_a_subset_has_the_same_share_of_each_class(sizes, seed, share):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = len(sizes) + round(share * (len(labels) - len(sizes)))
    chosen = subset_indices(labels, count, seed)
    assert len(np.unique(chosen)) == count
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    last = max((few - 1) / size for few, size in zip(taken, sizes, strict=True))
    next_ones = [few / size for few, size in zip(taken, sizes, strict=True) if few < size]
    assert all(last <= other for other in next_ones)  # no class is served before another's turn
    assert min(taken) >= 1


def test_a_smaller_subset_is_part_of_a_larger_one():
    labels = cycling_labels(100, 7)
    small, large = (subset_indices(labels, count, seed=4) for count in (20, 60))
    assert set(small) < set(large)
    assert set(small) != set(subset_indices(labels, 20, seed=5))
    assert np.array_equal(subset_indices(labels, None, seed=0), np.arange(100))


def test_the_validation_part_is_held_out_of_the_subset(tmp_path):
    path = numbered_npz(tmp_path / "a.npz")
    splits = npz_splits(path, subset=20, validation=0.25)
    train, validation = numbers_in(splits.train), numbers_in(splits.validation)
    assert (len(train), len(validation), len(numbers_in(splits.test))) == (15, 5, 6)
    assert sorted(train + validation) == subset_indices(cycling_labels(50, 3), 20, seed=0).tolist()
    assert splits.info.train_images == 20


@pytest.mark.parametrize(
    ("subset", "text"),
    [
        (51, r"data\.subset is 51, but there are 50 training images; choose at most that many"),
        (2, r"data\.subset is 2, less than one image for each of 3 classes"),
    ],
)
def test_a_subset_that_cannot_be(tmp_path, subset, text):
    path = numbered_npz(tmp_path / "a.npz")
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.raises(ArgumentError, match=text):
            call(DataSettings(dataset="npz", path=str(path), subset=subset))


def test_a_subset_larger_than_what_the_files_hold(tmp_path):
    write_svhn_files(tmp_path)
    settings = DataSettings(dataset="svhn", root=str(tmp_path), subset=30)
    with pytest.raises(ArgumentError, match=r"data\.subset is 30, but there are 20 training images"):
        load(settings, seed=0)


# --- a validation part of the data set's own


def own_npz(path, **changes):
    own = {"validation_images": random_images(4, 6, 5, seed=3), "validation_labels": cycling_labels(4, 3)}
    return write_npz(path, **(own | changes))


def test_an_npz_file_may_bring_its_validation_part(tmp_path):
    path = own_npz(tmp_path / "a.npz")
    splits = npz_splits(path, validation="own")
    assert (splits.train.num_images, splits.validation.num_images) == (12, 4)
    assert torch.equal(splits.validation.images_as_uint8()[..., 0], torch.from_numpy(random_images(4, 6, 5, seed=3)))
    assert splits.info.validation_images == 4
    assert npz_splits(path, validation=0.25).train.num_images == 9


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"validation_labels": None}, "validation_labels: missing"),
        ({"validation_images": random_images(4, 5, 5)}, "validation_images: images are (5, 5, 1) (H, W, C), those of"),
        ({"validation_labels": np.array([0, 1, 2, 3])}, "validation_labels: 1 label outside 0..2"),
        ({"validation_labels": np.array([0, 1])}, "validation_labels: has 2 entries, validation_images has 4"),
        ({"validation_images": np.full((4, 6, 5), 2.0)}, "validation_images: float pixels must be in [0, 1]"),
    ],
)
def test_a_wrong_validation_part_of_an_npz_file(tmp_path, changes, text):
    with pytest.raises(DataError) as caught:
        npz_splits(own_npz(tmp_path / "a.npz", **changes))
    assert text in str(caught.value)


def test_other_data_sets_have_no_validation_part():
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.raises(ArgumentError, match=r"data\.validation is 'own', but data set 'digits' has no validation"):
            call(DataSettings(dataset="digits", validation="own"))


@pytest.mark.parametrize(("validation", "there"), [("own", True), (0.1, True), (0.0, False)])
def test_settings_tell_whether_there_is_a_validation_part(validation, there):
    assert DataSettings(dataset="digits", validation=validation).has_validation is there


# --- a sample for pictures and measurements


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), data=st.data())
def test_every_beginning_of_the_balanced_order_has_the_share_of_each_class(sizes, data):
    labels = np.repeat(data.draw(st.permutations(range(len(sizes)))), sizes)  # sorted by class, as in folders
    order = balanced_order(labels)
    assert sorted(order) == list(range(len(labels)))
    count = data.draw(st.integers(0, len(labels)))
    of_class = np.bincount(labels, minlength=len(sizes))
    shares = of_class * count / len(labels)
    assert (np.bincount(labels[order[:count]], minlength=len(sizes)) - shares < 1).all()


def test_fewer_images_than_classes_are_not_those_of_the_first_classes():
    labels = np.repeat(np.arange(1000), 5)
    chosen = labels[balanced_order(labels)[:256]]
    assert len(np.unique(chosen)) == 256
    assert 400 < chosen.mean() < 600


def test_a_balanced_sample_holds_the_images_of_its_labels():
    images = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1, 1)
    batches = Batches(images, torch.arange(60) // 20, height=1, width=1, batch_size=7, seed=3)
    sample = balanced_sample(batches, 15)
    numbers, labels = numbers_in(sample), torch.cat([labels for _, labels in sample]).tolist()
    assert numbers == sorted(numbers) == numbers_in(balanced_sample(batches, 15))
    assert labels == [number // 20 for number in numbers] == [0] * 5 + [1] * 5 + [2] * 5
    assert numbers_in(balanced_sample(batches, 100)) == list(range(60))


def test_images_of_several_classes_have_no_balanced_sample():
    several = Batches(torch.zeros(4, 1, 1, 1), torch.eye(4).repeat(1, 2), height=1, width=1, batch_size=2)
    with pytest.raises(ArgumentError, match=r"one class for each image: .*; received float32 of shape \(4, 8\)"):
        balanced_sample(several, 2)


# --- the range and the layout of pixels


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            random_images(12, 6, 5) // 16,
            "pixels of the training images of data set 'npz': the largest is 15 of 255, which",
        ),
        (random_images(12, 6, 5) // 128, "the largest is 1 of 255, which is nearly black"),
        (np.full((12, 6, 5), 1 / 255, np.float32), "the largest is 0.00392157 of 1, which is nearly black"),
        (np.zeros((12, 6, 5), np.uint8), "the largest is 0 of 255"),
    ],
)
def test_images_that_are_nearly_black_are_said(tmp_path, images, text):
    test = np.full((6, 6, 5), 255 if images.dtype == np.uint8 else 1, images.dtype)
    path = write_npz(tmp_path / "a.npz", train_images=images, test_images=test)
    with pytest.warns(UserWarning, match=text):
        npz_splits(path)


@pytest.mark.filterwarnings("ignore:pixels of the test images")
def test_one_bright_image_is_enough(tmp_path):
    images = np.zeros((12, 6, 5), np.uint8)
    images[11, 2, 3] = 17
    npz_splits(write_npz(tmp_path / "a.npz", train_images=images))


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_files_of_12_bits_in_16_are_said(tmp_path, monkeypatch, in_memory):
    pixels = np.linspace(0, 4080, 64).astype(np.uint16).reshape(8, 8)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(9):
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    monkeypatch.setattr("encapkeras.data.splits.IN_MEMORY", 2**30 if in_memory else 0)
    with pytest.warns(UserWarning, match=r"pixels of the (training|test) images .* the largest is 15 of 255"):
        load(DataSettings(dataset="image_folder", root=str(tmp_path), image_size=8, workers=0), seed=0)


@pytest.fixture
def made():
    """A data set of someone's own that returns the arrays that are put here."""
    arrays = []

    @register_dataset("made")
    class Made(DatasetReader):
        """Made up."""

        def describe(self):
            return DatasetInfo(8, 9, 3, 2, ("a", "b"))

        def read(self):
            return ImageArrays(arrays[0], np.arange(12) % 2, arrays[0], np.arange(12) % 2)

    yield arrays
    DATASETS.forget(["made"])


def test_arrays_that_are_not_as_described_are_refused(made):
    made.append(random_images(12, 3, 8, 9))
    with pytest.raises(
        DataError, match=r"describes images \(N, H, W, 3\), and returns \(11, 3, 8, 9\). This looks like"
    ):
        load(DataSettings(dataset="made"), seed=0)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_pixels_of_a_data_set_of_ones_own_that_are_not_in_the_unit_range_are_said(made, dtype):
    made.append(random_images(12, 8, 9, 3).astype(dtype))
    with pytest.warns(UserWarning, match="the largest is 255; pixels that are not uint8 must be in"):
        load(DataSettings(dataset="made", image_size=None), seed=0)


def test_batches_of_images_whose_channels_come_first():
    with pytest.raises(ArgumentError, match=r"at least 8 x 9; received \(5, 3, 8, 9\). This looks like \(N, C, H, W\)"):
        Batches(torch.zeros(5, 3, 8, 9), torch.zeros(5).long(), height=8, width=9, batch_size=2)
