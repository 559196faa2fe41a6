"""What the pictures and TensorBoard show is what was measured."""

import math

import pytest
from matplotlib.colors import to_rgb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from encapkeras.analysis import (
    Measurement,
    RoutingAnalysis,
    plot_iterations,
    plot_votes,
    write_epoch,
    write_iterations,
)
from encapkeras.analysis.measurements import bin_center
from encapkeras.analysis.plots import COLORS
from encapkeras.errors import ArgumentError

DRAWS = True  # see conftest.py


def analysed(checkpoint, shift=0.0, classes=True, routing="em", iterations=3):
    """Figures that say where they come from."""
    found = []
    for t in range(1, iterations + 1):

        def add(statistic, capsules, value, count=10, cosine=None, t=t):
            found.append(Measurement("digits", routing, t, statistic, capsules, cosine, value, count))

        add("coupling_entropy", "all", 2.3 / t)
        add("coupling_entropy_relative", "all", 1 / t)
        for number, role in enumerate(["target", "other"] if classes else ["all"]):
            add("agreement", role, 0.1 * t + shift - 0.05 * number)
            add("agreement_by_coupling", role, 0.2 * t + shift - 0.05 * number)
            add("activation", role, 0.3 * t - 0.1 * number)
            for index in range(21):
                count = max(0, index - 5 + t)
                add("vote_length", role, 0.1 * index if count else None, count, bin_center(index))
    return RoutingAnalysis(checkpoint, "test", 1234, tuple(found))


BOTH = [analysed("best"), analysed("last", shift=0.1)]


def columns(figure, count):
    """The panels by column, from the top."""
    return [figure.axes[start::count] for start in range(count)]


def test_iterations_show_a_column_for_each_checkpoint():
    figure = plot_iterations(BOTH, "digits")
    assert figure.get_suptitle() == "digits: EM routing, 1,234 test images"
    for panels, analysis in zip(columns(figure, 2), BOTH, strict=True):
        assert panels[0].get_title() == analysis.checkpoint
        target, other = panels[1].get_lines()
        for line, role in ((target, "target"), (other, "other")):
            assert list(line.get_xdata()) == [1, 2, 3]
            assert list(line.get_ydata()) == [m.value for m in analysis.select("digits", "agreement", role)]
        assert (target.get_linestyle(), other.get_linestyle()) == ("-", "--")
        assert panels[-1].get_xlabel() == "iteration"
    assert [axes.get_ylabel().split("\n")[0] for axes in columns(figure, 2)[0]] == [
        "coupling entropy",
        "agreement",
        "agreement weighted",
        "activation",
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "all output capsules",
        "the image's class",
        "other classes",
    ]


@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_each_kind_has_one_color(routing):
    analysis = analysed("best", classes=False, routing=routing)
    for figure in (plot_iterations([analysis], "digits"), plot_votes([analysis], "digits")):
        latest = figure.axes[-1].get_lines()[-1]
        assert to_rgb(latest.get_color()) == pytest.approx(to_rgb(COLORS[routing]))


def test_lengths_above_1_are_in_the_picture():
    analysis = analysed("best", classes=False, routing="heinsen_2022", iterations=5)  # 1.5 at last
    panel = plot_iterations([analysis], "digits").axes[3]
    assert panel.get_ylim() == pytest.approx((0, 1.05 * 1.5))
    assert panel.get_ylabel() == "activation\n$|v_j|$"
    assert plot_iterations(BOTH, "digits").axes[-1].get_ylim() == pytest.approx((0, 1.05))


def test_rounding_errors_do_not_fill_an_axis():
    figure = plot_iterations([analysed("best", classes=False, iterations=1)], "digits")
    low, high = figure.axes[1].get_ylim()
    assert high - low >= 0.1


def test_votes_show_shares_and_lengths_by_cosine():
    figure = plot_votes(BOTH, "digits")
    for panels, analysis in zip(columns(figure, 2), BOTH, strict=True):
        shares_of_target, _, lengths_of_target, _ = panels
        stairs = shares_of_target.patches
        assert len(stairs) == 3
        for step in stairs:
            assert step.get_data().values.sum() == pytest.approx(100)
            assert step.get_data().edges[0] == pytest.approx(-1, abs=1e-5)
        bins = analysis.select("digits", "vote_length", "target")[:21]
        line = lengths_of_target.get_lines()[0]
        for shown, m in zip(line.get_ydata(), bins, strict=True):
            assert math.isnan(shown) if m.value is None else shown == m.value
        assert list(line.get_xdata()) == [m.cosine for m in bins]


def test_pictures_can_be_saved(tmp_path):
    plot_votes(BOTH, "digits").savefig(tmp_path / "votes.png")
    assert (tmp_path / "votes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("plot", [plot_iterations, plot_votes])
def test_what_cannot_be_drawn(plot):
    with pytest.raises(ArgumentError, match="'best' has no layer 'middle'; it has digits"):
        plot(BOTH, "middle")
    with pytest.raises(ArgumentError, match="no analyses"):
        plot([], "digits")


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_curves_over_the_iterations(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        write_iterations(writer, BOTH[0])
    board = events(tmp_path)
    points = board.Scalars("digits/agreement/target")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([0.1, 0.2, 0.3])
    histograms = board.Histograms("digits/cosine/other")
    assert [histogram.step for histogram in histograms] == [1, 2, 3]
    first = histograms[0].histogram_value
    assert first.num == sum(first.bucket) == sum(range(17))
    assert (first.bucket_limit[0], first.bucket_limit[-1]) == (pytest.approx(-19 / 21), pytest.approx(1))


def test_tensorboard_has_curves_over_the_epochs(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for epoch in (5, 10):
            write_epoch(writer, analysed("epoch", shift=epoch / 100), epoch)
    board = events(tmp_path)
    points = board.Scalars("digits/agreement/target/iteration 3")
    assert [(point.step, round(point.value, 4)) for point in points] == [(5, 0.35), (10, 0.4)]
    (tag,) = [tag for tag in board.Tags()["histograms"] if tag.endswith("target")]
    assert [histogram.step for histogram in board.Histograms(tag)] == [5, 10]
    assert [image.step for image in board.Images("digits/votes")] == [5, 10]
