"""Names that others chose, in figures, Markdown and TensorBoard: shown as they are, whatever they hold."""

import csv
import os

import keras
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras import check_spec
from encapkeras.analysis import AffineAccuracy, Measurement, RoutingAnalysis, plot_affine, plot_iterations
from encapkeras.callbacks import TensorBoard
from encapkeras.comparison.plot import plot_comparison
from encapkeras.comparison.result import Comparison, Network, Run
from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.errors import DataError, SpecError
from encapkeras.layers import CapsuleDense, CapsuleLength, ImageToCapsules
from encapkeras.losses import MarginLoss
from encapkeras.training.tensorboard.figures import draw_confusion

DRAWS = True  # see conftest.py
MONEY = ["$10-$20", "$20-$50", "more"]
HOSTILE = [["$", "$$", "$$$"], ["x^{", "$\\a", "b$"], ["猫", "العربية", "🐕"], ["caf\udce9", "a\tb\nc", "\x1b[31m"]]


def pixels(figure, path):
    figure.savefig(path)
    return np.asarray(Image.open(path))


def written(text, path, **options):
    figure = Figure((4, 1))
    figure.text(0.1, 0.3, text, **options)
    return pixels(figure, path)


def ticks(names):
    figure = draw_confusion(torch.eye(len(names), dtype=torch.int64), names)
    return figure, [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_name_is_drawn_with_its_dollar_signs(tmp_path):
    _, texts = ticks(MONEY)
    for name, text in zip(MONEY, texts, strict=True):
        shown, plain = written(text, tmp_path / "a.png"), written(name, tmp_path / "b.png", parse_math=False)
        assert (shown == plain).all()


@pytest.mark.parametrize("names", HOSTILE)
def test_pictures_of_any_names_are_drawn_without_a_warning(names, tmp_path):
    figure, texts = ticks(names)
    pixels(figure, tmp_path / "a.png")
    assert not any("\n" in text or "\x1b" in text for text in texts)


@pytest.mark.parametrize("names", [MONEY, *HOSTILE])
def test_tensorboard_takes_any_names(names, tmp_path):
    layers = [keras.Input((4, 4, 2)), ImageToCapsules(types=1), CapsuleDense(capsules=3, dim=2), CapsuleLength()]
    model = keras.Sequential(layers)
    model.compile("adam", MarginLoss())
    data = np.random.default_rng(0).random((12, 4, 4, 2), dtype=np.float32), np.arange(12) % 3
    board = TensorBoard(tmp_path / "board", data, class_names=names)
    model.fit(*data, epochs=1, verbose=0, callbacks=[board])
    tags = EventAccumulator(str(tmp_path / "board")).Reload().Tags()
    assert {"predictions", "confusion"} <= set(tags["images"])
    assert len([tag for tag in tags["histograms"] if "own_class" in tag]) == 3
    with (tmp_path / "board" / "projector" / "labels.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert [len(row) for row in rows] == [4] * 13
    assert names != MONEY or {row[0] for row in rows[1:]} == set(MONEY)


def test_names_of_networks_and_layers_in_plots(tmp_path):
    names = ["_run", "$1-$2", "猫"]
    accuracies = [AffineAccuracy("rotation", 0, 0.5, 10), AffineAccuracy("rotation", 30, 0.4, 10)]
    figure = plot_affine(dict.fromkeys(names, accuracies))
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_run", r"\$1-\$2", "□"]
    pixels(figure, tmp_path / "affine.png")
    found = [
        Measurement("a$b$", "em", 1, statistic, "all", None, 0.5, 10)
        for statistic in ("coupling_entropy_relative", "agreement", "agreement_by_coupling", "activation")
    ]
    pixels(plot_iterations([RoutingAnalysis("$", "test", 10, tuple(found))], "a$b$"), tmp_path / "routing.png")


def comparison(label, error=""):
    results = dict.fromkeys(("test_accuracy", "validation_accuracy", "images_per_second", "seconds"), 0.5)
    results |= {"peak_memory_mib": None, "parameters": 10}
    network = Network(label, label, "a.yaml", DataSettings(dataset="digits"))
    return Comparison([network], [0, 1], [Run(label, 0, "none", results), Run(label, 1, "none", None, error)])


def test_a_network_whose_name_begins_with_an_underscore_is_in_the_legend():
    (text,) = plot_comparison(comparison("_mine")).legends[0].get_texts()
    assert text.get_text().strip() == "_mine"


def test_a_comparison_in_markdown_is_text_alone():
    text = comparison("a|b <img src=x> _c_ d_e", "[1](2) `x` $y$\n<script>").as_markdown()
    assert r"| a\|b &lt;img src=x&gt; \_c\_ d_e |" in text
    assert "\\[1\\](2) \\`x\\` \\$y\\$\n  &lt;script&gt;" in text


def test_a_class_whose_name_is_not_utf8_is_refused_before_the_training(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(folder)
        for number in range(10):
            Image.new("L", (32, 32)).save(os.fsdecode(os.path.join(folder, b"\xe9%d.png" % number)))
    data = f"data={{dataset: image_folder, root: {tmp_path}, image_size: 32, channels: 1}}"
    with pytest.raises(SpecError, match=r"class 'caf\\udce9' is not UTF-8; rename it"):
        check_spec("quickstart", [data])
    with pytest.raises(DataError, match="is not UTF-8"):
        DatasetInfo(8, 8, 1, 2, ("a", "\ud800"))
