"""Deletion and insertion of networks whose curves are known."""

import keras
import numpy as np
import pytest
import torch

from encapkeras import build_model
from encapkeras.analysis import Classifier, Explainer, deletion_and_insertion, measure_explanations, plot_curves
from encapkeras.analysis.deletion import blur
from encapkeras.data import DataSettings, load
from encapkeras.errors import ArgumentError

STEPS = 16


@pytest.fixture(scope="module")
def linear():
    """A network whose score of class 0 is the mean of the pixels, and of all others 0."""
    nodes = {
        "flat": {"layer": "keras.Flatten", "inputs": "image"},
        "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$classes"},
    }
    spec = {
        "spec": "encapkeras/1",
        "name": "linear",
        "data": {"dataset": "digits"},
        "model": {"nodes": nodes, "outputs": {"classes": "scores"}},
        "losses": {"classes": {"loss": "margin"}},
    }
    model = build_model(spec)
    kernel = np.zeros((1024, 10), "float32")
    kernel[:, 0] = 1 / 1024
    model.get_layer("scores").set_weights([kernel, np.zeros(10, "float32")])
    return model


@pytest.fixture(scope="module")
def digits():
    return load(DataSettings(dataset="digits"), seed=0).test


def curves(model, images, maps, seed=0):
    labels = torch.zeros(len(images), dtype=torch.long)
    random = torch.Generator().manual_seed(seed)
    return deletion_and_insertion(Classifier(model), images, maps, labels, random, STEPS)


def test_a_sum_of_pixels_falls_by_the_pixels_that_go(linear):
    images = torch.rand(3, 32, 32, 1, generator=torch.Generator().manual_seed(0))
    found = curves(linear, images, images[..., 0])
    sorted_pixels = images.flatten(1).sort(1, descending=True).values
    for step in range(STEPS + 1):
        gone = round(step * 1024 / STEPS)
        torch.testing.assert_close(found.deletion[:, step], sorted_pixels[:, gone:].sum(1) / 1024, atol=1e-6, rtol=1e-5)
    begin, end = found.insertion[:, 0], found.insertion[:, -1]
    torch.testing.assert_close(begin, blur(images).mean((1, 2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(end, images.mean((1, 2, 3)), atol=1e-6, rtol=1e-5)


def test_equal_pixels_fall_and_rise_in_a_line(linear):
    """The area of deletion is then half the score, whatever the order."""
    images = torch.full((2, 32, 32, 1), 0.5)
    found = curves(linear, images, torch.zeros(2, 32, 32))
    torch.testing.assert_close(found.deletion, torch.linspace(0.5, 0, STEPS + 1).expand(2, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.areas()["deletion"], torch.full((2,), 0.25), atol=1e-6, rtol=0)


def test_equal_values_go_in_a_random_order_of_the_seed(linear):
    images = torch.rand(1, 32, 32, 1, generator=torch.Generator().manual_seed(0))
    first, again, other = (curves(linear, images, torch.zeros(1, 32, 32), seed).deletion for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradient_times_input_is_the_best_map_of_a_linear_network(linear, digits):
    found = measure_explanations(Explainer(linear), digits, 20, steps=STEPS)
    assert list(found) == ["gradient_input", "brightness", "random"]
    areas = {name: each.areas() for name, each in found.items()}
    torch.testing.assert_close(areas["gradient_input"]["deletion"], areas["brightness"]["deletion"])
    assert (areas["gradient_input"]["deletion"] < areas["random"]["deletion"]).all()
    assert (areas["gradient_input"]["insertion"] > areas["random"]["insertion"]).all()
    assert len(areas["random"]["deletion"]) == 20


def test_the_same_seed_gives_the_same_figures_and_a_network_with_a_flow_has_two_more(digits):
    keras.utils.set_random_seed(0)
    explainer = Explainer(build_model("capsnet_dynamic_digits"))
    first, again = (measure_explanations(explainer, digits, 4, steps=2, seed=seed) for seed in (3, 3))
    assert list(first) == ["flow", "gradient_input", "brightness", "random_coarse", "random"]
    for name, found in first.items():
        assert torch.equal(found.deletion, again[name].deletion)
        assert torch.equal(found.insertion, again[name].insertion)
    assert found.deletion.shape == (4, 3)


def test_a_figure_has_a_line_for_each_method(linear, digits):
    measured = measure_explanations(Explainer(linear), digits, 4, steps=4)
    deletion, insertion = plot_curves(measured, "linear").axes
    for axes, kind in ((deletion, "deletion"), (insertion, "insertion")):
        assert len(axes.lines) == 3
        np.testing.assert_allclose(axes.lines[0].get_ydata(), getattr(measured["gradient_input"], kind).mean(0))


def test_too_few_images(linear, digits):
    with pytest.raises(ArgumentError, match="an interval needs at least 2 images; received 1"):
        measure_explanations(Explainer(linear), digits, 1)
    with pytest.raises(ArgumentError, match="steps must be at least 1; received 0"):
        measure_explanations(Explainer(linear), digits, 2, steps=0)


def test_a_blurred_point_is_the_gaussian():
    image = torch.zeros(1, 21, 21, 1)
    image[0, 10, 10] = 1
    line = torch.exp(-(torch.arange(-5.0, 6) ** 2) / 50)
    expected = torch.outer(line, line) / line.sum() ** 2
    torch.testing.assert_close(blur(image)[0, 5:16, 5:16, 0], expected)
