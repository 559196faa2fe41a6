import json

import pytest

from encapkeras.benchmarks.data import augment_settings
from encapkeras.cli.main import main


def run(*words):
    return main(["bench", "data", "--dataset", "digits", "--repeats", "1", *words])


def test_json(capsys):
    assert run("--json", "--batch-size", "32") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["dataset"], report["image"], report["batch_size"]) == ("digits", [32, 32, 1], 32)
    assert set(report["images_per_second"]) == {"none", "light", "jitter"}
    assert all(rate > 0 for rate in report["images_per_second"].values())


def test_table(capsys):
    assert run("--augment", "light") == 0
    output = capsys.readouterr().out
    assert "light" in output
    assert "jitter" not in output


def test_colour_images_are_jittered_in_all_ways():
    assert augment_settings("jitter", 3).hue == 0.2
    assert augment_settings("jitter", 1).hue == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--batch-size", "0"], "greater than 0; received 0"),
        (["--dataset", "digit"], "Did you mean 'digits'?"),
        (["--dataset", "npz"], "'npz' needs 'path'"),
        (["--repeats", "0"], "--repeats must be at least 1; received 0"),
    ],
)
def test_impossible_options(words, text, capsys):
    assert run(*words) == 2
    assert text in capsys.readouterr().err
