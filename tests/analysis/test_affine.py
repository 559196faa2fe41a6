import pytest
import torch
from support.tiny_spec import tiny_spec

from encapkeras import EncapkerasError, build_model
from encapkeras.analysis import Classifier, affine_accuracy, plot_affine, transformed
from encapkeras.analysis.affine import changes
from encapkeras.data import DataSettings, load
from encapkeras.data.splits import balanced_sample


@pytest.fixture
def images():
    return torch.rand(3, 12, 12, 2, generator=torch.Generator().manual_seed(0))


def test_no_change_is_none_to_the_bit(images):
    assert transformed(images) is images


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-2, 0), (0, 4), (0, -1), (2, -3)])
def test_whole_pixels_move_as_they_are(right, down, images):
    moved = torch.zeros_like(images)
    rows, columns = slice(max(down, 0), 12 + min(down, 0)), slice(max(right, 0), 12 + min(right, 0))
    from_rows, from_columns = slice(max(-down, 0), 12 + min(-down, 0)), slice(max(-right, 0), 12 + min(-right, 0))
    moved[:, rows, columns] = images[:, from_rows, from_columns]
    torch.testing.assert_close(transformed(images, right=right, down=down), moved, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quarters", [-1, 1, 2, 3])
def test_quarter_turns_are_those_of_rot90(quarters, images):
    """`rot90` over rows and columns turns counter-clockwise, as the eye sees it."""
    turned = torch.rot90(images, quarters, dims=(1, 2))
    torch.testing.assert_close(transformed(images, degrees=90 * quarters), turned, atol=1e-5, rtol=0)


def test_half_a_pixel_is_the_mean_of_two(images):
    moved = transformed(images, right=0.5)
    torch.testing.assert_close(moved[:, :, 1:], (images[:, :, 1:] + images[:, :, :-1]) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, :, 0], images[:, :, 0] / 2, atol=1e-5, rtol=0)


def test_a_ramp_doubles_about_the_middle():
    """Bilinear sampling is exact on a linear image, here the distance from the middle to the right."""
    ramp = (torch.arange(12.0) - 5.5).expand(1, 12, 12)[..., None]
    torch.testing.assert_close(transformed(ramp, factor=2.0), ramp / 2, atol=1e-5, rtol=0)


def test_a_smaller_image_stands_on_black(images):
    small = transformed(torch.ones_like(images), factor=0.5)
    torch.testing.assert_close(small[:, 4:8, 4:8], torch.ones(3, 4, 4, 2))
    assert not small[:, :2].any() and not small[:, 10:].any() and not small[:, :, :2].any()


def test_there_and_back_is_the_smooth_image():
    axis = torch.linspace(-1, 1, 40)
    bump = torch.exp(-4 * (axis[:, None] ** 2 + 2 * axis[None] ** 2))[None, ..., None]
    back = transformed(transformed(bump, degrees=33.0), degrees=-33.0)
    torch.testing.assert_close(back[:, 12:-12, 12:-12], bump[:, 12:-12, 12:-12], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"factor": 0.0}, {"factor": -1.0}, {"degrees": float("nan")}, {"right": float("inf")}]
)
def test_numbers_that_are_none(wrong, images):
    with pytest.raises(EncapkerasError, match="factor one above 0"):
        transformed(images, **wrong)


def test_accuracies_are_those_of_each_changed_image():
    """One by one, against the batched measurement; a count cuts into the middle of a batch."""
    batches = load(DataSettings(dataset="digits", batch_size=16), seed=0).test
    model = build_model(tiny_spec())
    found = {(each.change, each.amount): each for each in affine_accuracy(Classifier(model), batches, count=20)}
    assert list(found) == list(changes(32))
    images, labels = map(torch.cat, zip(*balanced_sample(batches, 20), strict=True))
    assert torch.bincount(labels, minlength=10).tolist() == [2] * 10
    for change, ways in {
        ("rotation", 30): [{"degrees": 30}],
        ("shift", 3): [{"right": 3}, {"right": -3}, {"down": 3}, {"down": -3}],
        ("scale", 0.7): [{"factor": 0.7}],
    }.items():
        right = [model(transformed(images, **way)).argmax(1) == labels for way in ways]
        assert found[change].accuracy == pytest.approx(torch.stack(right).float().mean().item())
        assert found[change].images == 20
    same = {found[change].accuracy for change in (("rotation", 0), ("shift", 0), ("scale", 1.0))}
    assert len(same) == 1


def test_a_plot_has_a_panel_for_each_change_and_a_line_for_each_network():
    found = affine_accuracy(
        Classifier(build_model(tiny_spec())), load(DataSettings(dataset="digits"), seed=0).test, count=10
    )
    figure = plot_affine({"one": found, "other": found})
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"]
    with pytest.raises(EncapkerasError, match="received 0"):
        plot_affine({})
