"""`data.affine`: each image changed by a map of its own, always the same one."""

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from support.dataset_files import cycling_labels, random_images, write_image_folder, write_npz

from encapkeras.data import AffineSettings, AugmentSettings, DataSettings, augment, describe, load, prepare
from encapkeras.data.affine import AffineImages
from encapkeras.errors import ArgumentError

STILL = {"rotation": 0, "shear": 0, "scale": 0, "shift": 0}


def all_images(batches):
    return torch.cat([images for images, _ in batches])


@pytest.fixture
def arrays(tmp_path):
    path = write_npz(
        tmp_path / "a.npz",
        train_images=random_images(40, 9, 12, 3, seed=1),
        train_labels=cycling_labels(40, 3),
        test_images=random_images(30, 9, 12, 3, seed=2),
        test_labels=cycling_labels(30, 3),
    )
    return {"dataset": "npz", "path": str(path)}


def test_the_map_against_scipy():
    """Scaled, sheared, turned counter-clockwise, then moved: SciPy asks where each pixel (row, column) comes from."""
    given = AffineSettings(rotation=30, shear=0.3, scale=0.3, shift=3, seed=5)
    images = torch.from_numpy(random_images(20, 11, 14, 2)).float() / 255
    changed = AffineImages(given, "test", np.arange(20), (11, 14))(images, np.arange(20))
    drawn = 2 * np.random.default_rng([5, 2]).random((20, 6)) - 1
    middle = np.array([5.0, 6.5])
    for image, found, (r, k, a, b, right, down) in zip(images.numpy(), changed.numpy(), drawn, strict=True):
        angle = np.radians(30 * r)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # y points down
        forward = turn @ np.array([[1, 0.3 * k], [0, 1]]) @ np.diag([1 + 0.3 * a, 1 + 0.3 * b])
        back = np.linalg.inv(forward)[::-1, ::-1]  # in rows and columns
        offset = middle - back @ (middle + np.array([3 * down, 3 * right]))
        for channel in (0, 1):
            plane = image[..., channel].astype(float)
            expected = scipy.ndimage.affine_transform(plane, back, offset, order=1, mode="grid-constant", cval=0)
            np.testing.assert_allclose(found[..., channel], expected, atol=2e-5)


def test_a_quarter_turn_is_counter_clockwise():
    images = torch.arange(9.0).reshape(1, 3, 3, 1)
    back = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)  # of R(90 degrees)
    turned = augment.warp(images, back, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.equal(turned[0, ..., 0], torch.rot90(images[0, ..., 0]))


@pytest.mark.parametrize("floats", [False, True])
def test_without_ranges_images_only_get_their_border(tmp_path, floats):
    images = random_images(12, 6, 5)
    stored = {"test_images": images / 255.0 if floats else images, "test_labels": cycling_labels(12, 3)}
    path = write_npz(tmp_path / "a.npz", **stored)
    splits = load(DataSettings(dataset="npz", path=str(path), affine={"border": 2, **STILL}), seed=0)
    seen = all_images(splits.test)
    assert seen.shape == (12, 10, 9, 1)
    np.testing.assert_allclose(seen[:, 2:-2, 2:-2, 0], images / 255.0, atol=1e-7)
    assert seen.sum() == pytest.approx(images.sum() / 255.0, rel=1e-6)


def test_maps_are_within_their_ranges():
    """A single bright pixel in the middle moves by the shift alone; the default is a fifth of the side."""
    images = torch.zeros(200, 41, 41, 1)
    images[:, 20, 20] = 1
    changed = AffineImages(AffineSettings(), "test", np.arange(200), (41, 41))(images, np.arange(200))
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    mass = changed.sum((1, 2, 3))
    for places in (rows, columns):
        moved = (changed[..., 0] * places).sum((1, 2)) / mass - 20
        assert moved.abs().max() < 8 + 0.5
        assert moved.min() < -6
        assert moved.max() > 6


def test_the_same_seed_gives_the_same_images(arrays):
    first, again, other = (
        all_images(load(DataSettings(**arrays, affine={"seed": seed}), seed=training).test)
        for seed, training in ((3, 0), (3, 9), (4, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_batch_size_changes_nothing(arrays):
    tests = [all_images(load(DataSettings(**arrays, affine={}, batch_size=size), seed=0).test) for size in (1, 7, 64)]
    assert torch.equal(tests[0], tests[1])
    assert torch.equal(tests[0], tests[2])


@given(order=st.lists(st.integers(0, 29), min_size=1, max_size=60), size=st.integers(3, 12))
@settings(max_examples=30, deadline=None)
def test_an_image_does_not_depend_on_the_others(order, size):
    images = torch.from_numpy(random_images(30, size, size + 1, 1))
    change = AffineImages(AffineSettings(seed=1), "training", np.arange(30), (size, size + 1))
    alone = torch.cat([change(images[place : place + 1], np.array([place])) for place in range(30)])
    assert torch.equal(change(images[order], np.array(order)), alone[order])


@pytest.mark.parametrize("training", [False, True])
def test_training_images_are_changed_only_on_demand(arrays, training):
    changed, plain = (
        load(DataSettings(**arrays, affine={"training": training, **ranges}), seed=0) for ranges in ({}, STILL)
    )
    assert not torch.equal(all_images(changed.test), all_images(plain.test))
    for part in ("train", "validation"):
        one, other = (all_images(getattr(splits, part).unchanged()) for splits in (changed, plain))
        assert torch.equal(one, other) != training


def test_a_training_image_keeps_its_map_whatever_else_is_used(arrays):
    """Of other subsets, validation parts and seeds: images that are in both are equal."""
    ways = (({}, 0), ({"subset": 20, "validation": 0.5}, 3))

    def loaded(ranges):
        return [
            load(DataSettings(**arrays, **more, affine={"training": True, **ranges}), seed=seed) for more, seed in ways
        ]

    def by_original(plain, changed):
        pairs = [
            (getattr(plain, part).unchanged(), getattr(changed, part).unchanged()) for part in ("train", "validation")
        ]
        return {
            original.numpy().tobytes(): image
            for one, other in pairs
            for original, image in zip(all_images(one), all_images(other), strict=True)
        }

    whole, some = (by_original(plain, changed) for plain, changed in zip(loaded(STILL), loaded({}), strict=True))
    assert (len(whole), len(some)) == (40, 20)
    assert all(torch.equal(image, whole[key]) for key, image in some.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_files_in_worker_processes_are_what_arrays_are(tmp_path, monkeypatch, workers):
    root = write_image_folder(tmp_path / "photos", {"train": 6, "test": 3})
    given = {
        "dataset": "image_folder",
        "root": str(root),
        "image_size": 16,
        "batch_size": 4,
        "workers": workers,
        "affine": {"border": 3, "training": True},
    }
    changes = AugmentSettings(crop=True, pad=2, mirror=True)
    in_memory = load(DataSettings(**given, augment=changes), seed=0)
    monkeypatch.setattr("encapkeras.data.splits.IN_MEMORY", 0)
    from_files = load(DataSettings(**given, augment=changes), seed=0)
    for part in ("train", "validation", "test"):
        one, other = (getattr(splits, part) for splits in (in_memory, from_files))
        assert torch.equal(all_images(one), all_images(other))
    assert from_files.test.batch(0)[0].shape[1:] == (22, 22, 3)


def test_the_network_is_given_images_with_their_border():
    settings = DataSettings(dataset="mnist", image_size=28, affine={"border": 6})
    assert (describe(settings).height, describe(settings).width) == (40, 40)
    assert AffineSettings().border == 0


def test_a_border_and_resizing_before_a_crop():
    with pytest.raises(ArgumentError, match=r"affine\.border is put around images of data\.image_size"):
        DataSettings(dataset="digits", affine={"border": 2}, augment={"resize": 34, "crop": True})
    with pytest.raises(
        ArgumentError, match=r"augment.crop has nothing to crop.* Set augment.pad, or remove augment.crop"
    ):
        DataSettings(dataset="digits", affine={"border": 2}, augment={"crop": True})
    splits = load(DataSettings(dataset="digits", affine={}, augment={"resize": 34, "crop": True}), seed=0)
    assert splits.test.batch(0)[0].shape[1:] == (32, 32, 1)
    assert DataSettings(dataset="digits", affine={"border": 2}, augment={"pad": 2, "crop": True}).margin == 2


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rotation": 181}, "rotation"),
        ({"scale": 1}, "scale"),
        ({"shear": -0.1}, "shear"),
        ({"shift": -1}, "shift"),
        ({"border": -1}, "border"),
        ({"angle": 3}, "'angle' is not allowed here"),
    ],
)
def test_impossible_ranges(given, text):
    with pytest.raises(ArgumentError, match=text):
        DataSettings(dataset="digits", affine=given)


def test_one_image_is_prepared_with_its_border():
    info = describe(DataSettings(dataset="mnist", image_size=28, affine={"border": 6}))
    image = random_images(1, 28, 28)[0]
    prepared = prepare(image, info, border=6)
    assert prepared.shape == (1, 40, 40, 1)
    assert torch.equal(prepared[0, 6:-6, 6:-6, 0], torch.from_numpy(image) / 255)
