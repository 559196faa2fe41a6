import csv
import io
import itertools
import json
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from encapkeras.comparison.result import Comparison
from encapkeras.comparison.rows import Network, Run
from encapkeras.comparison.statistics import Difference, Spread
from encapkeras.data import DataSettings

FIRST = [0.9722, 0.9778, 0.9806, 0.9694, 0.9750]
SECOND = [0.9806, 0.9778, 0.9889, 0.9750, 0.9861]


def by_seed(values, seeds=None):
    return dict(zip(seeds or range(len(values)), values, strict=True))


def run(network, seed, accuracy, **figures):
    results = {
        "test_accuracy": accuracy,
        "test_loss": 0.1,
        "validation_accuracy": accuracy - 0.1,
        "best_epoch": 2,
        "parameters": 1234,
        "images_per_second": 100.0 + seed,
        "seconds": 10.0 * (seed + 1),
        "peak_memory_mib": 100.0 + 3 * seed,
    }
    return Run(network, seed, f"runs/seed_{seed}/{network}", {**results, **figures})


def network(label, **data):
    return Network(label, label, f"{label}.yaml", DataSettings(**{"dataset": "digits", **data}))


def compared(*runs, labels=("one", "two"), seeds=(0, 1, 2)):
    return Comparison([network(label) for label in labels], seeds, list(runs))


@pytest.mark.parametrize("values", [FIRST, SECOND, [0.1, 0.9]])
def test_a_spread_is_that_of_numpy(values):
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(np.mean(values), abs=1e-15)
    assert spread.standard_deviation == pytest.approx(np.std(values, ddof=1), abs=1e-15)
    assert (spread.lowest, spread.highest) == (min(values), max(values))


def test_one_value_has_no_deviation():
    assert Spread.of([0.5]) == Spread(0.5, None, 0.5, 0.5)
    assert str(Spread.of([0.5])) == "0.5000"


@pytest.mark.smoke
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_difference_is_that_of_a_paired_t_test(count):
    first, second = FIRST[:count], SECOND[:count]
    difference = Difference.of(by_seed(second), by_seed(first))
    apart = np.array(second) - np.array(first)
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert difference.mean == pytest.approx(apart.mean(), abs=1e-15)
    assert difference.mean == pytest.approx(np.mean(second) - np.mean(first), abs=1e-15)
    assert difference.standard_error == pytest.approx(apart.std(ddof=1) / np.sqrt(count), abs=1e-15)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval), abs=1e-12)
    assert difference.seeds == count


def test_seeds_that_only_one_has_do_not_count():
    both = Difference.of(by_seed([0.9, 0.8, 0.7], [0, 1, 2]), by_seed([0.6, 0.5, 0.1], [1, 2, 3]))
    assert both == Difference.of({1: 0.8, 2: 0.7}, {1: 0.6, 2: 0.5})
    assert Difference.of({0: 0.9}, {1: 0.9}) is None


@pytest.mark.parametrize(
    ("apart", "verdict"),
    [
        ([0.10, 0.11, 0.12], "better"),
        ([-0.10, -0.11, -0.12], "worse"),
        ([0.02, 0.00, 0.01], "unclear"),  # beyond its standard error, within its interval
        ([0.02, -0.03, 0.01], "unclear"),
        ([0.00, 0.00, 0.00], "unclear"),
        ([0.02, 0.02, 0.02], "unclear"),  # without a spread, nobody knows how certain it is
        ([0.50], "unclear"),
    ],
)
def test_no_difference_within_its_uncertainty_is_called_one(apart, verdict):
    reference = by_seed(np.float32([0.5, 0.3, 0.4]).tolist()[: len(apart)])
    # Accuracies are float32 numbers, so that equal differences are not quite equal.
    values = {seed: float(np.float32(reference[seed] + apart[seed])) for seed in reference}
    assert Difference.of(values, reference).verdict == verdict


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_intervals_of_several_pairs_are_those_of_bonferroni(count):
    first, second = FIRST[:count], SECOND[:count]
    interval = stats.ttest_rel(second, first).confidence_interval(1 - 0.05 / 6)
    difference = Difference.of(by_seed(second), by_seed(first), pairs=6)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval), abs=1e-12)


def test_all_intervals_hold_together_as_often_as_promised():
    """Of four networks that are equally good, some pair is called better or worse in at most 5 % of comparisons."""
    random = np.random.default_rng(0)
    networks = [network(label) for label in "abcd"]
    called = 0
    for _ in range(400):
        runs = [run(label, seed, random.normal(0.9, 0.01)) for label in "abcd" for seed in range(5)]
        called += any(pair.difference.verdict != "unclear" for pair in Comparison(networks, range(5), runs).pairs())
    assert 0 < called <= 20


def test_what_is_called_better_or_worse_lies_beyond_the_standard_error():
    random = np.random.default_rng(0)
    called = 0
    for count in (2, 3, 4, 8):
        for _ in range(250):
            difference = Difference.of(by_seed(random.normal(0.01, 0.01, count)), by_seed(np.zeros(count)))
            if difference.verdict in ("better", "worse"):
                called += 1
                assert abs(difference.mean) > difference.standard_error
                assert (difference.verdict == "better") == (difference.mean > 0)
    assert 0 < called < 1000


def test_rows_have_means_and_medians():
    runs = [run("one", seed, value) for seed, value in enumerate(FIRST[:3])]
    runs += [run("two", seed, value) for seed, value in enumerate(SECOND[:3])]
    one, two = compared(*runs).rows()
    assert one.test_accuracy == Spread.of(FIRST[:3])
    assert one.validation_accuracy == Spread.of([value - 0.1 for value in FIRST[:3]])
    assert (one.parameters, one.images_per_second, one.seconds) == (1234, 101.0, 20.0)
    assert (one.finished, one.failed, one.difference) == (3, 0, None)
    assert two.difference == Difference.of(by_seed(SECOND[:3]), by_seed(FIRST[:3]))


def test_the_markdown_says_what_the_figures_are():
    runs = [run("one", seed, 0.9 + seed / 100) for seed in range(3)]
    runs += [run("two", seed, 0.9) for seed in range(3)]
    lines = compared(*runs).as_markdown().splitlines()
    assert lines[2] == (
        "| one | 3/3 | 0.9100 ± 0.0100 | 0.9000-0.9200 | 9.00 ± 1.00 | 0.8100 ± 0.0100 | 0.8000-0.8200 | 1,234 | "
        "101 | 20 | 103 |"
    )
    assert {line.count("|") for line in lines[:4]} == {12}
    assert lines[5:8] == [
        "| spec | compared with | difference in points | interval | verdict | seeds |",
        "|---|---|---|---|---|---|",
        "| two | one | -1.00 | -3.48 to +1.48 | unclear | 3 |",
    ]
    notes = "\n".join(lines[8:])
    assert "mean ± standard deviation over the seeds 0, 1, 2" in notes
    assert "Weights tested: best on validation. The test images were used once per run." in notes
    assert "Intervals: 95%, Student's t." in notes
    assert "6 of 6 runs finished." in notes


def test_a_failed_run_is_marked_and_does_not_count():
    failed = Run("two", 1, "runs/seed_1/two", None, "the loss became nan")
    comparison = compared(run("one", 0, 0.9), run("one", 1, 0.8), run("two", 0, 0.95), failed)
    _, two = comparison.rows()
    assert (two.finished, two.failed, two.test_accuracy) == (1, 1, Spread.of([0.95]))
    assert (two.difference.seeds, two.difference.standard_error) == (1, None)
    text = comparison.as_markdown()
    assert "| two | 1/3 1 FAILED | 0.9500 |" in text
    assert "- FAILED: two, seed 1: the loss became nan" in text
    assert "3 of 6 runs finished." in text
    assert comparison.failed == [failed]


def test_a_comparison_without_a_finished_run():
    comparison = compared()
    assert "| one | 0/3 | - | - | - | - | - | - | - | - | - |" in comparison.as_markdown()
    assert "0 of 6 runs finished." in comparison.as_markdown()
    assert [row["test_accuracy_mean"] for row in csv.DictReader(io.StringIO(comparison.as_csv()))] == ["", ""]


def test_without_validation_the_rule_is_another():
    networks = [network("one"), network("two", validation=0)]
    runs = [run("one", 0, 0.9), run("two", 0, 0.9, validation_accuracy=None)]
    text = Comparison(networks, [0], runs).as_markdown()
    assert "Weights tested (one): best on validation." in text
    assert "Weights tested (two): last epoch." in text
    assert "| two | 1/1 | 0.9000 | 0.9000-0.9000 | 10.00 | - | - |" in text


def test_json_and_csv_hold_the_same_figures():
    runs = [run("one", seed, value) for seed, value in enumerate(FIRST[:3])]
    runs += [run("two", seed, value) for seed, value in enumerate(SECOND[:3])]
    comparison = compared(*runs)
    one, two = json.loads(comparison.as_json())["specs"]
    assert one["test_accuracy"]["mean"] == np.mean(FIRST[:3])
    assert one["weights"] == "best on validation"
    assert two["difference"]["verdict"] == "unclear"
    (pair,) = json.loads(comparison.as_json())["pairs"]
    assert pair == {"spec": "two", "compared_with": "one", **two["difference"]}
    assert [run["seed"] for run in json.loads(comparison.as_json())["runs"]] == [0, 1, 2, 0, 1, 2]
    first, second = csv.DictReader(io.StringIO(comparison.as_csv()))
    assert first["difference_mean"] == ""
    assert float(first["test_error_percent"]) == pytest.approx(100 - 100 * np.mean(FIRST[:3]))
    assert float(first["peak_memory_mib"]) == 103
    assert float(second["difference_mean"]) == two["difference"]["mean"]
    assert float(second["test_accuracy_standard_deviation"]) == two["test_accuracy"]["standard_deviation"]


def beside(**data):
    """The first network on the digits with another whose data section has these values, each with two runs."""
    runs = [run(label, seed, 0.9 + seed / 100) for label in ("one", "two") for seed in (0, 1)]
    return Comparison([network("one"), network("two", **data)], [0, 1], runs)


@pytest.mark.parametrize(
    ("data", "key", "values"),
    [
        ({"dataset": "fashion_mnist"}, "dataset", '"fashion_mnist", not "digits"'),
        ({"dataset": "npz", "path": "/a.npz"}, "path", '"/a.npz", not null'),
    ],
)
def test_accuracies_of_other_data_sets_do_not_compare(data, key, values):
    comparison = beside(**data)
    assert [row.difference for row in comparison.rows()] == [None, None]
    (note,) = [note for note in comparison.notes() if note.startswith("two is trained on other data than one (")]
    assert f"data.{key} is {values}" in note
    assert note.endswith("): accuracies are not comparable.")
    assert comparison.pairs() == []
    assert "compared with" not in comparison.as_markdown()


def test_other_data_settings_that_change_the_comparison_are_told():
    comparison = beside(validation=0.2, image_size=28)
    assert comparison.rows()[1].difference is not None
    assert [note for note in comparison.notes() if "differs" in note] == [
        "two differs from one in that data.validation is 0.2, not 0.1: they are not trained on the same images, and "
        "validation accuracies are not comparable.",
        "two differs from one in that data.image_size is 28, not null: their images have different sizes.",
    ]


def test_batch_size_and_augmentation_are_part_of_what_is_compared():
    assert beside(batch_size=7, augment={"mirror": True}).notes() == beside().notes()


def several(count, seeds=3):
    """This many networks, each a point better than the one before, with names that no medium takes as they are."""
    labels = [f"net_{number} <b>&#%" for number in range(count)]
    random = np.random.default_rng(0)
    values = [0.5 + number / 100 + random.normal(0, 0.001, seeds) for number in range(count)]
    runs = [run(label, seed, values[number][seed]) for number, label in enumerate(labels) for seed in range(seeds)]
    return compared(*runs, labels=labels, seeds=range(seeds))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_all_pairs_are_compared_the_later_with_the_earlier(count):
    comparison = several(count)
    labels = [network.label for network in comparison.networks]
    pairs = [(pair.reference.label, pair.network.label) for pair in comparison.pairs()]
    assert pairs == list(itertools.combinations(labels, 2))
    assert {pair.difference.pairs for pair in comparison.pairs()} == {len(pairs)}
    assert [row.difference for row in comparison.rows()[1:]] == [p.difference for p in comparison.pairs()[: count - 1]]
    printed = repr(comparison).splitlines()
    table = printed[next(n for n, line in enumerate(printed) if "in points" in line) :]
    assert sum(" to " in line for line in table) == len(pairs)
    assert max(map(len, table)) <= 80


def test_more_networks_than_ten_are_compared_with_the_first():
    comparison = several(11)
    assert {pair.reference.label for pair in comparison.pairs()} == {comparison.networks[0].label}
    assert len(comparison.pairs()) == 10


def test_networks_on_other_data_than_the_first_are_compared_among_each_other():
    networks = [network("one"), network("two", dataset="mnist"), network("three", dataset="mnist")]
    runs = [run(each.label, seed, 0.9) for each in networks for seed in (0, 1)]
    (pair,) = Comparison(networks, [0, 1], runs).pairs()
    assert (pair.reference.label, pair.network.label) == ("two", "three")


def test_a_notebook_shows_the_tables_with_names_as_they_are():
    comparison = several(3)
    root = ElementTree.fromstring(f"<html>{comparison._repr_html_()}</html>")  # noqa: S314  # our own
    networks, pairs = root.findall("table")
    first_cells = [row[0].text for row in networks.iter("tr")]
    assert first_cells == ["spec", *(network.label for network in comparison.networks)]
    assert [cell.text for cell in list(pairs.iter("tr"))[1]] == list(
        comparison.pair_cells(comparison.pairs()[0]).values()
    )
    assert [item.text for item in root.iter("li")] == comparison.notes()


def test_latex_for_a_paper():
    one, two = FIRST[:3], SECOND[:3]
    runs = [
        run(label, seed, value) for label, values in (("a_b", one), ("c%&#", two)) for seed, value in enumerate(values)
    ]
    text = compared(*runs, labels=("a_b", "c%&#")).as_latex()
    low, high = stats.t.interval(0.95, 2, np.mean(one), stats.sem(one))
    assert rf"a\_b & ${100 * np.mean(one):.2f} \pm {50 * (high - low):.2f}$ & 1,234 & 3 \\" in text
    low, high = stats.ttest_rel(two, one).confidence_interval(0.95)
    assert rf"c\%\&\# & a\_b & $+0.56$ & ${100 * low:+.2f}$ to ${100 * high:+.2f}$ \\" in text


def test_latex_of_one_seed_and_of_a_failed_network():
    text = compared(run("one", 0, 0.9), run("two", 0, 0.95), labels=("one", "two", "three"), seeds=[0]).as_latex()
    assert r"one & $90.00$ & 1,234 & 1 \\" in text
    assert r"three & -- & -- & 0 \\" in text
    assert r"two & one & $+5.00$ & -- \\" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="LaTeX is not installed")
def test_latex_compiles(tmp_path):
    labels = ["_ % & # $ { } ~ ^ \\", "[x] <y> |z| \"q\" `r` 's'", "* -- --- ", "\\input{x} \x1b", "größer"]
    runs = [run(label, seed, 0.9 + seed / 100) for label in labels for seed in (0, 1)]
    tables = compared(*runs, labels=labels, seeds=[0, 1]).as_latex()
    head, tail = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}", "\\end{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\n{tables}\n{tail}\n", encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
