"""`data.overlap`: two images of different classes as one, with both labels."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.dataset_files import cycling_labels, random_images, write_image_folder, write_npz

from encapkeras.data import AugmentSettings, Batches, DataSettings, describe, load
from encapkeras.data.overlap import MARGIN, draw_pairs
from encapkeras.errors import ArgumentError, DataError

SIZE = 6


@pytest.fixture
def arrays(tmp_path):
    path = write_npz(
        tmp_path / "a.npz",
        train_images=random_images(40, SIZE, SIZE, seed=1),
        train_labels=cycling_labels(40, 4),
        test_images=random_images(30, SIZE, SIZE, seed=2),
        test_labels=cycling_labels(30, 4),
    )
    return {"dataset": "npz", "path": str(path)}


def overlapped(arrays, *, seed=0, **more):
    return load(DataSettings(**arrays, overlap=2, **more), seed=seed)


def everything(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shifted(image, top, left):
    """An image on its larger canvas, in whose middle it is for a window at (4, 4): a larger first row moves it up."""
    canvas = np.zeros((SIZE + 8, SIZE + 8), image.dtype)
    canvas[8 - top : 8 - top + SIZE, 8 - left : 8 - left + SIZE] = image
    return canvas


@given(
    sizes=st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(lambda sizes: sum(map(bool, sizes)) > 1),
    seed=st.integers(0, 2**40),
)
def test_partners_are_of_another_class(sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pairs = draw_pairs(labels, np.random.default_rng(seed))
    assert (labels[pairs["partners"]] != labels).all()
    for name in ("tops", "lefts", "partner_tops", "partner_lefts"):
        assert pairs[name].shape == labels.shape
        assert ((pairs[name] >= 0) & (pairs[name] <= MARGIN)).all()


def test_all_images_of_other_classes_are_as_likely():
    labels = np.array([0, 1, 1, 2, 0, 2, 2])
    random = np.random.default_rng(0)
    partners = np.stack([draw_pairs(labels, random)["partners"] for _ in range(6000)])
    for place, label in enumerate(labels):
        shares = np.bincount(partners[:, place], minlength=7) / 6000
        other = labels != label
        assert (shares[~other] == 0).all()
        np.testing.assert_allclose(shares[other], 1 / other.sum(), atol=0.03)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_images_are_the_larger_pixels_of_two(arrays, part):
    plain = getattr(load(DataSettings(**arrays), seed=0), part).unchanged()
    alone, classes = everything(plain)
    splits = overlapped(arrays)
    batches = getattr(splits, part).unchanged()
    images, labels = everything(batches)
    assert images.shape == (len(alone), SIZE + 8, SIZE + 8, 1)
    pairs = draw_pairs(classes.numpy(), np.random.default_rng((0, 2)))
    for place, (image, label) in enumerate(zip(images.numpy(), labels, strict=True)):
        partner = pairs["partners"][place]
        first = shifted(alone[place, ..., 0].numpy(), pairs["tops"][place], pairs["lefts"][place])
        second = shifted(alone[partner, ..., 0].numpy(), pairs["partner_tops"][place], pairs["partner_lefts"][place])
        assert np.array_equal(image[..., 0], np.maximum(first, second))
        assert sorted(label.nonzero().flatten().tolist()) == sorted({int(classes[place]), int(classes[partner])})


def test_labels_have_both_classes(arrays):
    splits = overlapped(arrays)
    for part in (splits.train, splits.validation, splits.test):
        images, labels = everything(part)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.float32)
        assert labels.shape == (part.num_images, 4)
        assert (labels.sum(1) == 2).all()
        assert part.labels.shape == labels.shape
    assert torch.equal(splits.test.labels, everything(splits.test)[1])
    assert (splits.info.height, splits.info.width) == (SIZE + 8, SIZE + 8)
    assert splits.info.classes_per_image == 2


def test_the_seed_decides_the_pairs_of_the_training_and_not_those_of_the_test(arrays):
    first, again, other = (overlapped(arrays, seed=seed, validation=0.0) for seed in (3, 3, 4))
    assert same(everything(first.train), everything(again.train))
    other.train.set_epoch(0)
    first.train.set_epoch(0)
    assert not same(everything(first.train), everything(other.train))
    assert same(everything(first.test), everything(other.test))


def test_each_epoch_has_its_own_pairs_and_the_same_again(arrays):
    train = overlapped(arrays).train
    epochs = [everything(train) for _ in range(2)]
    assert not torch.equal(epochs[0][0].sum(0), epochs[1][0].sum(0))
    train.set_epoch(0)
    assert same(everything(train), epochs[0])
    assert same(train.batch(0, epoch=1), (epochs[1][0][:64], epochs[1][1][:64]))


def test_neither_batch_size_nor_other_changes_decide_the_pairs(arrays):
    whole, small, mirrored = (
        overlapped(arrays, **more)
        for more in ({}, {"batch_size": 7}, {"augment": AugmentSettings(mirror=True, brightness=0.5, cutout=3)})
    )
    for part in ("train", "validation", "test"):
        assert same(everything(getattr(whole, part)), everything(getattr(small, part)))
    whole.train.set_epoch(0)
    assert torch.equal(everything(whole.train)[1], everything(mirrored.train)[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_files_in_worker_processes_are_what_arrays_are(tmp_path, monkeypatch, workers):
    root = write_image_folder(tmp_path / "photos", {"train": 6, "test": 3})
    given = {"dataset": "image_folder", "root": str(root), "image_size": 16, "batch_size": 4, "workers": workers}
    more = {"overlap": 2, "affine": {"border": 1, "training": True}}
    in_memory = load(DataSettings(**given, **more), seed=0)
    monkeypatch.setattr("encapkeras.data.splits.IN_MEMORY", 0)
    from_files = load(DataSettings(**given, **more), seed=0)
    for part in ("train", "validation", "test"):
        assert same(*(everything(getattr(splits, part)) for splits in (in_memory, from_files)))
    assert from_files.test.batch(0)[0].shape[1:] == (26, 26, 3)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(3, 20), batch_size=st.integers(1, 8), processes=st.integers(1, 4))
def test_processes_make_the_parts_of_the_same_batches(count, batch_size, processes):
    given = {"height": SIZE, "width": SIZE, "batch_size": batch_size, "seed": 1, "overlap_classes": 3}
    images = torch.from_numpy(random_images(count, SIZE + MARGIN, SIZE + MARGIN, 1))
    whole = Batches(images, torch.arange(count) % 3, **given)
    parts = [list(whole.only_part(process, processes)) for process in range(processes)]
    for index, (pixels, labels) in enumerate(list(whole)):
        made = [part[index] for part in parts]
        assert all(torch.equal(other, labels) for _, other in made)
        together = made[0][0] if len(labels) < processes else sum(other for other, _ in made)
        assert torch.equal(together, pixels)


def test_chosen_images_keep_their_partners(arrays):
    test = overlapped(arrays, batch_size=30).test
    images, labels = test.batch(0)
    chosen = np.array([7, 3, 21])
    some = test.take(chosen)
    assert same(some.batch(0), (images[chosen], labels[chosen]))
    assert torch.equal(test.images_as_uint8(4), (images[:4] * 255).round().to(torch.uint8))
    assert torch.equal(some.images_as_uint8(), (images[chosen] * 255).round().to(torch.uint8))


def test_what_needs_one_class_of_each_image(arrays):
    splits = overlapped(arrays)
    for batches in (splits.train, splits.test, splits.test.take(np.arange(3))):
        with pytest.raises(ArgumentError, match=r"one class for each image.*With data\.overlap, each image has two"):
            _ = batches.classes
    with pytest.raises(ArgumentError, match="no corners to crop"):
        next(splits.test.corner_crops())


@pytest.mark.parametrize(
    "augment", [{"resize": 40}, {"resize": 40, "crop": True}, {"crop": True, "pad": 2}, {"pad": 2}]
)
def test_images_are_not_shifted_twice(augment):
    named = " and ".join(f"augment.{name}" for name in augment)
    with pytest.raises(ArgumentError, match=f"data.overlap shifts each image by itself: remove {named}$"):
        DataSettings(dataset="digits", overlap=2, augment=augment)


@pytest.mark.parametrize("overlap", [1, 3, True, "2"])
def test_only_two_images_overlap(overlap):
    with pytest.raises(ArgumentError, match="overlap: must be 2"):
        DataSettings(dataset="digits", overlap=overlap)


def test_two_classes_are_too_few(tmp_path):
    path = write_npz(tmp_path / "a.npz", train_labels=cycling_labels(12, 2), test_labels=cycling_labels(6, 2))
    with pytest.raises(ArgumentError, match=r"data\.overlap is 2, and there are 2 classes"):
        describe(DataSettings(dataset="npz", path=str(path), overlap=2))


def test_parts_of_one_class(tmp_path):
    path = write_npz(tmp_path / "a.npz", test_labels=np.ones(6, int), class_names=np.array(["x", "y", "z"]))
    data = {"dataset": "npz", "path": str(path), "overlap": 2}
    with pytest.raises(DataError, match=r"into one, and the test part has 6 images, of class 'y' alone\. Give each"):
        load(DataSettings(**data, validation=0), seed=0)
    with pytest.raises(DataError, match=r"the validation part has 1 image, of class '.' alone, and the test part has"):
        load(DataSettings(**data, validation=1 / 12), seed=0)
    with pytest.raises(DataError, match="all of these images have the same class"):
        draw_pairs(np.zeros(5, int), np.random.default_rng(0))
