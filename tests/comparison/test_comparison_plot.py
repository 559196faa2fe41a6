"""The picture of a comparison shows its figures."""

import pytest

from encapkeras.comparison.plot import plot_comparison
from encapkeras.comparison.result import Comparison
from encapkeras.comparison.rows import Network, Run
from encapkeras.data import DataSettings

COURSE = "epoch,loss,val_accuracy\n1,0.5,0.6\n2,0.4,0.8\n"


def compared(folder, *labels, seeds=2, metrics=COURSE):
    networks = [Network(label, label, f"{label}.yaml", DataSettings(dataset="digits")) for label in labels]
    runs = []
    for number, label in enumerate(labels):
        for seed in range(seeds):
            path = folder / f"seed_{seed}" / label
            path.mkdir(parents=True)
            (path / "metrics.csv").write_text(metrics)
            results = {
                "test_accuracy": 0.8 + seed / 10,
                "validation_accuracy": 0.8,
                "parameters": 1000 * 10**number,
                "images_per_second": 100.0,
                "seconds": 10.0 * (seed + 1),
                "peak_memory_mib": None,
            }
            runs.append(Run(label, seed, str(path), results))
    return Comparison(networks, list(range(seeds)), runs)


@pytest.mark.smoke
def test_accuracy_against_time_and_size(tmp_path):
    over_time, over_size = plot_comparison(compared(tmp_path, "one", "two")).axes
    courses = [line.get_xydata().tolist() for line in over_time.lines]
    assert courses == 2 * [[[5.0, 0.6], [10.0, 0.8]], [[10.0, 0.6], [20.0, 0.8]]]
    points, names = over_size.get_legend_handles_labels()
    assert names == ["one", "two"]
    for point, parameters in zip(points, (1000, 10000), strict=True):
        line, _, (bar,) = point.lines
        assert line.get_xydata().ravel().tolist() == pytest.approx([parameters, 0.85])
        assert bar.get_segments()[0][:, 1].tolist() == pytest.approx([0.8, 0.9])
        assert len({line.get_color() for line in over_time.lines[:2]}) == 1


def test_an_axis_of_different_sizes_is_logarithmic_and_reads_as_numbers(tmp_path):
    figure = plot_comparison(compared(tmp_path, "one", "two"))
    figure.canvas.draw()
    over_time, over_size = figure.axes
    assert {"1,000", "2,000", "5,000", "10,000"} <= {text.get_text() for text in over_size.get_xticklabels()}
    assert (over_time.get_xscale(), over_size.get_xscale()) == ("log", "log")
    assert not any(text.get_text() for text in over_size.get_xticklabels(minor=True))


def test_runs_without_a_course_have_their_point(tmp_path):
    over_time, over_size = plot_comparison(compared(tmp_path, "one", metrics="epoch,loss\n1,0.5\n")).axes
    assert [line.get_xydata().tolist() for line in over_time.lines] == [[], []]
    assert over_size.get_legend_handles_labels()[1] == ["one"]


def test_without_a_finished_run_there_is_no_picture():
    assert plot_comparison(Comparison([Network("one", "one", "", DataSettings(dataset="digits"))], [0])) is None


def test_many_networks_have_colours_of_their_own(tmp_path):
    labels = [f"n{number}" for number in range(24)]
    figure = plot_comparison(compared(tmp_path, *labels, seeds=1))
    assert len({line.get_color() for line in figure.axes[0].lines}) == 24
    assert len(figure.legends[0].texts) == 20
    figure.savefig(tmp_path / "many.png")
