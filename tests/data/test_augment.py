"""Laws that every change of images has to keep; B images of (H, W, C)."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as torchvision_functional
from hypothesis import given, settings

from encapkeras.data import augment

JITTERS = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
NEUTRAL = {augment.brightness: 1.0, augment.contrast: 1.0, augment.saturation: 1.0, augment.hue: 0.0}

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


def random_floats(seed, *shape):
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return images.round() if seed % 3 == 0 else images  # pure black, white and colours, where hue is hard


@quick
@given(seeds, sizes, sizes, st.sampled_from([1, 2, 3]))
def test_mirroring_twice_changes_nothing(seed, height, width, channels):
    images = random_floats(seed, 4, height, width, channels)
    chosen = torch.tensor([True, False, True, False])
    assert torch.equal(augment.mirror(augment.mirror(images, chosen), chosen), images)
    assert torch.equal(augment.mirror(images, chosen)[::2], images[::2].flip(2))
    assert torch.equal(augment.mirror(images, chosen)[1::2], images[1::2])


@quick
@given(seeds, sizes, sizes, st.data(), st.sampled_from([1, 3]))
def test_a_window_is_that_part_of_the_image(seed, height, width, data, channels):
    images = (random_floats(seed, 3, height, width, channels) * 255).to(torch.uint8)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    windows = augment.windows(images, h, w)
    assert windows.shape[:3] == (3, height - h + 1, width - w + 1)
    cut = windows[[2, 0], [top, top], [left, left]].reshape(2, h, w, channels)
    assert np.array_equal(cut, images[[2, 0], top : top + h, left : left + w])


@quick
@given(st.integers(0, 255), sizes, sizes, sizes, sizes)
def test_a_constant_image_stays_constant_in_every_size(grey, height, width, new_height, new_width):
    images = torch.full((2, height, width, 1), grey, dtype=torch.uint8)
    resized = augment.resize(images, new_height, new_width)
    assert resized.shape == (2, new_height, new_width, 1)
    assert (resized == grey).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 34])
def test_bytes_are_resized_as_floats_are(channels, size):
    images = (random_floats(1, 4, 28, 28, channels) * 255).round()
    exact = augment.resize(images, size, size)
    rounded = augment.resize(images.to(torch.uint8), size, size)
    assert rounded.dtype == torch.uint8
    assert rounded.is_contiguous()
    # rows and columns are rounded one after the other, half a grey level each, with weights of 16 bits
    assert (rounded.float() - exact).abs().max() <= 1 + 2 * 255 / 2**16


def test_an_image_of_the_right_size_is_not_resized():
    images = random_floats(1, 2, 7, 6, 3)
    assert augment.resize(images, 7, 6) is images


@pytest.mark.parametrize("jitter", JITTERS)
@quick
@given(seed=seeds, strength=st.floats(0, 0.5, width=32))
def test_pixels_stay_in_range(jitter, seed, strength):
    images = random_floats(seed, 3, 4, 5, 3)
    factor = NEUTRAL[jitter] + strength * torch.tensor([-1.0, 0.3, 1.0])
    changed = jitter(images, factor)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize("jitter", JITTERS)
@quick
@given(seed=seeds)
def test_the_neutral_strength_changes_nothing(jitter, seed):
    images = random_floats(seed, 3, 4, 5, 3)
    assert torch.allclose(jitter(images, torch.full((3,), NEUTRAL[jitter])), images, atol=2e-6, rtol=0)


@pytest.mark.parametrize("jitter", JITTERS)
def test_each_image_has_its_own_strength(jitter):
    images = random_floats(1, 3, 4, 5, 3)
    factor = torch.tensor([0.1, 0.2, 0.4])
    one_by_one = torch.cat([jitter(images[i : i + 1], factor[i : i + 1]) for i in range(3)])
    assert torch.allclose(jitter(images, factor), one_by_one, atol=1e-6)


@quick
@given(seed=seeds, turn=st.floats(-0.5, 0.5, width=32))
def test_grey_has_no_hue_and_no_saturation(seed, turn):
    grey = random_floats(seed, 3, 4, 5, 1).expand(3, 4, 5, 3)
    assert torch.allclose(augment.hue(grey, torch.full((3,), turn)), grey, atol=1e-6)
    assert torch.allclose(augment.saturation(grey, torch.full((3,), 1 + turn)), grey, atol=1e-6)


@quick
@given(seed=seeds, first=st.floats(-0.5, 0.5, width=32), second=st.floats(-0.5, 0.5, width=32))
def test_turns_of_the_colour_circle_add_up(seed, first, second):
    images = random_floats(seed, 3, 4, 5, 3)
    twice = augment.hue(augment.hue(images, torch.full((3,), first)), torch.full((3,), second))
    assert torch.allclose(twice, augment.hue(images, torch.full((3,), first + second)), atol=2e-5)


def test_a_third_of_a_turn_makes_red_green():
    red = torch.tensor([1.0, 0, 0]).expand(1, 2, 2, 3)
    assert torch.allclose(augment.hue(red, torch.tensor([1 / 3])), torch.tensor([0, 1.0, 0]), atol=1e-6)


@pytest.mark.parametrize(
    ("jitter", "theirs", "strength"),
    [
        (augment.brightness, torchvision_functional.adjust_brightness, 1.3),
        (augment.contrast, torchvision_functional.adjust_contrast, 0.6),
        (augment.saturation, torchvision_functional.adjust_saturation, 1.4),
        (augment.hue, torchvision_functional.adjust_hue, -0.17),
    ],
)
def test_jitters_are_those_of_torchvision(jitter, theirs, strength):
    images = random_floats(1, 3, 6, 5, 3)
    expected = theirs(images.permute(0, 3, 1, 2), strength).permute(0, 2, 3, 1)
    # torchvision's grey weights are cut to four digits and add up to 0.9999
    assert torch.allclose(jitter(images, torch.full((3,), strength)), expected, atol=1e-4)


def test_contrast_and_brightness_take_any_number_of_channels():
    images = random_floats(1, 3, 6, 5, 2)
    assert augment.contrast(images, torch.tensor([0.5, 1.0, 2.0])).shape == images.shape
    assert torch.equal(augment.brightness(images, torch.zeros(3)), torch.zeros_like(images))


def test_bytes_become_the_unit_range():
    every_byte = torch.arange(256, dtype=torch.uint8)
    unit = augment.to_unit_range(every_byte)
    assert unit.dtype == torch.float32
    assert (unit[0], unit[255]) == (0, 1)
    assert torch.equal((unit * 255).round().to(torch.uint8), every_byte)


@quick
@given(seeds, sizes, sizes, sizes, sizes)
def test_fitting_cuts_the_largest_centred_part_of_the_new_proportions(seed, height, width, new_height, new_width):
    images = random_floats(seed, 2, height, width, 1)
    fitted = augment.fit(images, new_height, new_width)
    assert fitted.shape == (2, new_height, new_width, 1)
    # A part is as high or as wide as the image, and off its proportions by less than a pixel.
    rows = min(height, max(1, round(width * new_height / new_width)))
    columns = min(width, max(1, round(height * new_width / new_height)))
    assert rows == height or columns == width
    top, left = (height - rows) // 2, (width - columns) // 2
    part = images[:, top : top + rows, left : left + columns]
    assert torch.equal(fitted, augment.resize(part.contiguous(), new_height, new_width))


def test_padding_puts_black_around():
    padded = augment.pad(torch.ones(1, 2, 3, 1), 2)
    assert padded.shape == (1, 6, 7, 1)
    assert padded.sum() == padded[:, 2:4, 2:5].sum() == 6
    images = torch.ones(1, 2, 3, 1)
    assert augment.pad(images, 0) is images


@quick
@given(seeds, sizes, sizes, st.integers(1, 6), st.data())
def test_a_square_of_the_mean_colour_is_cut_out(seed, height, width, side, data):
    images = random_floats(seed, 3, height, width, 2)
    rows = torch.tensor([data.draw(st.integers(0, height - 1)) for _ in range(3)])
    columns = torch.tensor([data.draw(st.integers(0, width - 1)) for _ in range(3)])
    cut = augment.cutout(images, rows, columns, side)
    for image, made, row, column in zip(images, cut, rows.tolist(), columns.tolist(), strict=True):
        expected = image.clone()
        top, left = row - side // 2, column - side // 2
        expected[max(top, 0) : top + side, max(left, 0) : left + side] = image.mean(dim=(0, 1))
        assert torch.allclose(made, expected)
