"""The page about notebooks, executed as one."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from support.pages import PROJECT, blocks

WITH_JUPYTER = all(importlib.util.find_spec(name) for name in ("nbconvert", "ipykernel"))


@pytest.mark.slow
@pytest.mark.skipif(not WITH_JUPYTER and not os.environ.get("CI"), reason="needs nbconvert and ipykernel")
def test_the_page_about_notebooks_works_as_one(tmp_path):
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cells = [{**cell, "source": block.text.rstrip()} for block in blocks(PROJECT / "docs/notebooks.md", "python")]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "page.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "page.ipynb", "--output", "done"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn, trained, fitted, saved, analysed = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    assert html_of(drawn)[0].startswith('<img alt="quickstart"')
    for cell, epochs in ((trained, 2), (fitted, 1)):
        assert f"epoch {epochs}/{epochs} " in html_of(cell)[0] and '<progress value="1.0000">' in html_of(cell)[0]
        lines = re.findall(
            r"^epoch \d/\d  accuracy \S+ val \S+  loss \S+ val \S+  .* left$", text_of(cell), re.MULTILINE
        )
        assert len(lines) == epochs
    assert "\nrun folder in_notebook\n" in text_of(trained)
    assert text_of(saved) == "True\n" and (tmp_path / "in_notebook.keras").is_file()
    assert "<table>" in html_of(analysed)[0] and "<td>dynamic</td>" in html_of(analysed)[0]


def html_of(cell):
    return ["".join(output["data"]["text/html"]) for output in cell["outputs"] if "text/html" in output.get("data", {})]


def text_of(cell):
    return "".join(line for output in cell["outputs"] if output.get("name") == "stdout" for line in output["text"])
