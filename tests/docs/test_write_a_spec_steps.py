"""The thirteen steps of write_a_spec.md: each spec does what the page says, up to a model that takes images."""

import re

import numpy as np
import pytest
from support.pages import PROJECT, blocks

from encapkeras import build_model, load_spec
from encapkeras.cli.main import main

PAGE = PROJECT / "docs" / "write_a_spec.md"
STEPS = blocks(PAGE, "yaml")
REPORTS = [block.text for block in blocks(PAGE, "text")]


def is_wrong(step):
    return "wrong" in step.text


def test_there_are_thirteen_steps():
    headings = re.findall(r"^## (\d+)\. ", PAGE.read_text(), re.MULTILINE)
    assert headings == [str(number) for number in range(1, 14)]
    assert len(STEPS) == 13
    assert sum(map(is_wrong, STEPS)) == len(REPORTS)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_step_does_what_the_page_says(step, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(step.text)
    if is_wrong(step):
        assert main(["check", "digits.yaml"]) == 2
        assert capsys.readouterr().err in REPORTS
        return
    model = build_model("digits.yaml")
    scores = model.predict(np.ones((2, *model.input_shape[1:])), verbose=0)
    assert scores.shape[0] == 2
    assert load_spec(load_spec("digits.yaml").resolved).resolved == model.spec


@pytest.mark.parametrize("step", [step for step in STEPS if "losses:" in step.text], ids=str)
def test_the_network_learns(step, tmp_path):
    (tmp_path / "digits.yaml").write_text(step.text)
    model = build_model(tmp_path / "digits.yaml")
    model.compile(optimizer="adam", loss=model.make_losses())
    rng = np.random.default_rng(0)
    history = model.fit(rng.uniform(size=(16, 32, 32, 1)), np.arange(16) % 10, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
