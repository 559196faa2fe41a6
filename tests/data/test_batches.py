import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.dataset_files import write_npz

from encapkeras.data import AugmentSettings, Batches, DataSettings, load

EVERYTHING = AugmentSettings(resize=8, crop=True, mirror=True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2)


def pixels(count=23, channels=3, floats=False):
    images = torch.randint(256, (count, 8, 8, channels), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return images / 255 if floats else images


def make(count=23, *, seed=0, batch_size=5, changes=None, size=6, images=None):
    images = pixels(count) if images is None else images
    return Batches(
        images, torch.arange(count), height=size, width=size, batch_size=batch_size, seed=seed, settings=changes
    )


def order_of(batches):
    return [int(label) for _, labels in batches for label in labels]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_the_batches_of_an_epoch_are_all_images_once(count, batch_size, seed, epoch):
    batches = make(count, seed=seed, batch_size=batch_size)
    batches.set_epoch(epoch)
    sizes = [len(labels) for _, labels in batches]
    assert len(batches) == len(sizes) == -(-count // batch_size)
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] == (count - 1) % batch_size + 1
    batches.set_epoch(epoch)
    assert sorted(order_of(batches)) == list(range(count))


def test_a_batch_is_floats_in_the_unit_range_and_labels():
    images, labels = next(iter(make(changes=EVERYTHING)))
    assert images.shape == (5, 6, 6, 3)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert 0 <= images.min() < images.max() <= 1
    assert labels.dtype == torch.int64


def test_labels_stay_with_their_images():
    images = torch.arange(23, dtype=torch.uint8).reshape(23, 1, 1, 1)
    batches = Batches(images, torch.arange(23), height=1, width=1, batch_size=4, seed=3)
    for seen, labels in batches:
        assert torch.equal((seen[:, 0, 0, 0] * 255).round().long(), labels)


def test_each_epoch_has_its_own_order_and_seeds_differ():
    batches = make()
    orders = [order_of(batches) for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert [order_of(make()) for _ in range(2)] == [orders[0]] * 2
    assert order_of(make(seed=1)) != orders[0]


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_batch_can_be_made_without_those_before_it(epoch):
    batches = make(changes=EVERYTHING)
    batches.set_epoch(epoch)
    whole = list(batches)
    for index in (4, 0, 2):
        images, labels = make(changes=EVERYTHING).batch(index, epoch)
        assert torch.equal(images, whole[index][0])
        assert torch.equal(labels, whole[index][1])


def test_augmentation_does_not_depend_on_the_batch_size():
    small, large = (torch.cat([images for images, _ in make(batch_size=b, changes=EVERYTHING)]) for b in (3, 23))
    assert torch.allclose(small, large, atol=1e-6)


def test_switching_one_change_on_leaves_the_order_alone():
    assert order_of(make(changes=EVERYTHING)) == order_of(make())


def test_the_random_state_of_torch_is_neither_used_nor_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = order_of(make(changes=EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert order_of(make(changes=EVERYTHING)) == first


def test_without_a_seed_images_come_in_order_cut_at_the_centre():
    batches = make(seed=None)
    seen = torch.cat([images for images, _ in batches])
    assert torch.equal(seen, pixels()[:, 1:7, 1:7] / 255)
    assert order_of(batches) == list(range(23))


def test_crop_moves_the_window_and_no_crop_keeps_it_at_the_centre():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1).expand(300, 8, 8, 1).contiguous()

    def corners(changes):
        batches = Batches(images, torch.zeros(300).long(), height=6, width=6, batch_size=300, seed=0, settings=changes)
        return {int(corner) for corner in (batches.batch(0)[0][:, 0, 0, 0] * 255).round()}

    assert corners(AugmentSettings(resize=8, crop=True)) == {0, 1, 2, 8, 9, 10, 16, 17, 18}
    assert corners(AugmentSettings(resize=8)) == {9}
    assert corners(AugmentSettings(resize=8, mirror=True)) == {9, 14}


def test_half_of_the_images_are_mirrored():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).expand(2000, 1, 2, 1).contiguous()
    batches = Batches(
        images,
        torch.zeros(2000).long(),
        height=1,
        width=2,
        batch_size=2000,
        seed=0,
        settings=AugmentSettings(mirror=True),
    )
    assert 900 < batches.batch(0)[0][:, 0, 0, 0].sum() < 1100


def test_images_are_not_changed_in_place():
    for floats in (False, True):
        stored = pixels(floats=floats)
        for images, _ in make(changes=EVERYTHING, images=stored):
            images.zero_()
        assert torch.equal(stored, pixels(floats=floats))


def test_float_images_keep_their_precision():
    batches = make(seed=None, images=pixels(floats=True), size=8)
    assert torch.equal(torch.cat([images for images, _ in batches]), pixels(floats=True))


@pytest.mark.parametrize("floats", [False, True])
def test_pictures_are_bytes_in_order_not_augmented(floats):
    batches = make(changes=EVERYTHING, images=pixels(floats=floats))
    pictures = batches.images_as_uint8(4)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, pixels()[:4, 1:7, 1:7])
    assert len(batches.images_as_uint8()) == batches.num_images == 23


def test_a_broken_off_epoch_is_begun_again():
    batches = make()
    next(iter(batches))
    assert batches.epoch == 0
    assert len(order_of(batches)) == 23
    assert batches.epoch == 1


@pytest.mark.parametrize("index", [-1, 5])
def test_a_batch_that_is_not_there(index):
    with pytest.raises(IndexError, match=f"no batch {index}: an epoch has 5"):
        make().batch(index)


def test_cutting_out_leaves_the_other_draws_and_the_other_pixels_alone():
    settings = [AugmentSettings(mirror=True, cutout=side) for side in (0, 3)]
    plain, cut = (make(200, batch_size=200, changes=changes).batch(0, epoch=1)[0] for changes in settings)
    counts = (plain != cut).any(dim=-1).sum(dim=(1, 2))
    assert counts.max() == 9
    assert counts.min() == 4  # where the square's centre lies in a corner


def test_the_draws_of_earlier_versions_stay():
    """The order, the windows and the mirrored ones that trainings with this seed have always seen."""
    pixels = torch.arange(23 * 4 * 4, dtype=torch.float32).reshape(23, 4, 4, 1) / (23 * 4 * 4)
    changes = AugmentSettings(crop=True, mirror=True, resize=4)
    batches = Batches(pixels, torch.arange(23), height=2, width=2, batch_size=5, seed=11, settings=changes)
    images, labels = batches.batch(0, epoch=2)
    random = np.random.default_rng([11, 3])
    order, tops, lefts = random.permutation(23), random.integers(3, size=23), random.integers(3, size=23)
    mirrored = random.random(23) < 0.5
    assert labels.tolist() == order[:5].tolist()
    for image, index, top, left, flipped in zip(images, order, tops, lefts, mirrored, strict=False):
        window = pixels[index, top : top + 2, left : left + 2]
        assert torch.equal(image, window.flip(1) if flipped else window)


def test_padding_shifts_training_images_and_no_others(tmp_path):
    images = np.full((8, 4, 4), 255, np.uint8)
    path = write_npz(tmp_path / "a.npz", train_images=images, train_labels=np.arange(8) % 3, test_images=images[:6])
    settings = DataSettings(
        dataset="npz", path=str(path), augment=AugmentSettings(pad=2, crop=True), validation=0.25, batch_size=64
    )
    splits = load(settings, seed=0)
    seen = torch.cat([splits.train.batch(0, epoch)[0] for epoch in range(50)])[..., 0]
    assert {int(count) for count in seen.sum(dim=(1, 2))} == {4, 6, 8, 9, 12, 16}
    for part in (splits.validation, splits.test, splits.train.unchanged()):
        assert part.batch(0)[0].min() == 1


def test_unchanged_batches_are_in_order_and_not_augmented():
    batches = make(changes=EVERYTHING)
    assert order_of(batches.unchanged()) == list(range(23))
    assert torch.equal(torch.cat([images for images, _ in batches.unchanged()]), pixels()[:, 1:7, 1:7] / 255)
    assert batches.epoch == 0


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_parts_that_processes_make_are_the_batch(processes):
    whole = list(make(changes=EVERYTHING))
    parts = [list(make(changes=EVERYTHING).only_part(process, processes)) for process in range(processes)]
    for images, labels in whole:
        made = [each.pop(0) for each in parts]
        assert all((own == labels).all() for _, own in made)
        if len(labels) >= processes:
            assert torch.equal(sum(own for own, _ in made), images)  # what others make is black
            assert all(own.flatten(1).any(1).sum() == len(labels) // processes for own, _ in made[:1])
        else:
            assert all(torch.equal(own, images) for own, _ in made)


def test_a_part_has_the_epochs_of_the_whole():
    whole, part = make(changes=EVERYTHING), make(changes=EVERYTHING).only_part(1, 2)
    for batches in (whole, part):
        batches.set_epoch(3, skipped=2)
    made = [(images[len(images) // 2 :], labels) for images, labels in whole]
    for (images, labels), (own, same) in zip(made, part, strict=True):
        assert torch.equal(own[len(own) // 2 :], images)
        assert torch.equal(labels, same)
