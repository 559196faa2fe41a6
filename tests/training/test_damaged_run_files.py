"""Whatever is in the JSON files of a run or a comparison, commands end with a message."""

import json
import shutil

import pytest
from support.tiny_spec import tiny_spec, write_spec
from support.trained import trained

from encapkeras.cli.main import main

PLUGIN = {"path": "mine.py", "copy": "plugins/mine.py", "registers": {"layer": ["squash"]}}
CONTENTS = {
    "nested": "[" * 100_000,
    "nested maps": '{"encapkeras":' * 5000 + "1" + "}" * 5000,
    "list": '["encapkeras"]',
    "text": '"encapkeras"',
    "number": "1e999",
    "null": "null",
    "nothing": "",
    "bytes": "\udcff",
    "digits": '{"encapkeras": ' + "9" * 5000 + "}",
    **{
        f"plugins {number}": json.dumps({"encapkeras": "0.1.0", "threads": [], "device": 1, "plugins": plugins})
        for number, plugins in enumerate(
            [3, "x", [3], {"a": 1}, *([{**PLUGIN, key: value}] for key in PLUGIN for value in (1, {"x": ["y"]}, "\0"))]
        )
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), tiny_spec(epochs=1))


@pytest.mark.parametrize("name", ["environment.json", "results.json"])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_of_a_run(tmp_path, run, name, content, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).write_bytes(content.encode(errors="surrogateescape"))
    kept = content.startswith('{"encapkeras": "')
    for words in (["evaluate", str(copy)], ["train", "--resume", str(copy)]):
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        assert code in ((0, 2) if kept or "evaluate" in words else (2,)), printed
        assert code == 0 or 0 < len(printed.err) < 2000


@pytest.mark.parametrize("runs", [*CONTENTS.values(), json.dumps({"runs": [{"network": "x" * 500, "seed": 1}] * 3000})])
def test_of_a_comparison(tmp_path, runs, capsys):
    spec = write_spec(tmp_path, tiny_spec(epochs=1))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "comparison.json").write_bytes(runs.encode(errors="surrogateescape"))
    assert main(["compare", str(spec), "--seeds", "1", "--resume", str(tmp_path / "table")]) == 2
    assert "comparison" in capsys.readouterr().err
