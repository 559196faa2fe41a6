import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from encapkeras.comparison.result import Comparison, Network, Run
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
        ([0.02, 0.00, 0.01], "no difference that 3 seeds can show"),  # beyond its standard error, within its interval
        ([0.02, -0.03, 0.01], "no difference that 3 seeds can show"),
        ([0.00, 0.00, 0.00], "no difference that 3 seeds can show"),
        ([0.02, 0.02, 0.02], "the same difference with all 3 seeds, which therefore cannot show how certain it is"),
        ([0.50], "no difference that 1 seed can show"),
    ],
)
def test_no_difference_within_its_uncertainty_is_called_one(apart, verdict):
    reference = by_seed(np.float32([0.5, 0.3, 0.4]).tolist()[: len(apart)])
    # Accuracies are float32 numbers, so that equal differences are not quite equal.
    values = {seed: float(np.float32(reference[seed] + apart[seed])) for seed in reference}
    assert Difference.of(values, reference).verdict == verdict


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
    notes = "\n".join(lines[4:])
    assert "mean ± standard deviation over the seeds 0, 1, 2" in notes
    assert "Weights tested: best on validation. The test images were used once per run." in notes
    assert "two - one, test accuracy: -0.0100 ± 0.0058 (standard error, 95% interval -0.0348 to +0.0148): no " in notes
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
    assert two["difference"]["verdict"] == "no difference that 3 seeds can show"
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
    assert "two - one" not in comparison.as_markdown()


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


def test_of_many_differences_those_that_show_something_are_told():
    labels = [f"n{number}" for number in range(10)]
    runs = [
        run(label, seed, 0.5 + seed / 100 + (seed % 2) * n / 1000)
        for n, label in enumerate(labels)
        for seed in range(3)
    ]
    runs = [r for r in runs if r.network != "n9"] + [run("n9", seed, 0.9 + seed / 90) for seed in range(3)]
    notes = compared(*runs, labels=labels).notes()
    assert [note.partition(",")[0] for note in notes if ", test accuracy: " in note] == [
        "n9 - n0",
        "8 of 9 others - n0",
    ]
    assert any(note.startswith("About 5% of the 9 intervals, 0.5, miss their true difference") for note in notes)
