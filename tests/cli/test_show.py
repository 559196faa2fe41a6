"""`encapkeras show`: the table, JSON, pictures, differences, and what is refused."""

import json
from xml.etree import ElementTree

import pytest
import yaml
from support.commands import refused

from encapkeras.cli import show
from encapkeras.cli.main import main

UNUSED = ["--set", "model.outputs.classes=stage1"]  # and with it stage2, digits and lengths reach no output
CPU = ["--device", "cpu"]
SMALL = ["--set", "vars.types=2", *CPU]


def shown(capsys, *words):
    """What `show` prints."""
    assert main(["show", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def test_every_node_is_on_a_line_with_its_costs(capsys, wide, monkeypatch):
    monkeypatch.setenv("ENCAPKERAS_KERNELS", "torch")  # others keep less
    lines = shown(capsys, "quickstart", *CPU).splitlines()
    assert lines == [
        "quickstart",
        "name     layer           inputs  output shape   weights  multiply-adds     memory",
        "---------------------------------------------------------------------------------",
        "stem     conv_bn_relu    image   16 x 16 x 16       192         36.9 k    2.0 MiB",
        "stage1   capsule_stage   stem    8 x 8 x 8 x 4   57,728         3.66 M    7.5 MiB",
        "stage2   capsule_stage   stage1  4 x 4 x 8 x 8  227,424         3.62 M    5.3 MiB",
        "digits   capsule_dense   stage2  10 x 8          10,240         10.2 k  296.0 KiB",
        "lengths  capsule_length  digits  10                   0              0    2.5 KiB",
        "batch: 64 images (data.batch_size)",
        "parameters: 295,584",
        "non-trainable parameters (moving statistics, frozen nodes): 1,197",
        "multiply-adds of an image: 7.33 M",
        "memory of a training step, at least: 19.8 MiB",
        "    weights 1.1 MiB, gradients 1.1 MiB, adam 2.3 MiB, nodes 15.1 MiB, images 256.0 KiB",
    ]


def test_routing_tells_what_votes_would_take_and_side_losses_what_they_look_at(capsys, wide):
    printed = shown(capsys, "capsnet_sabour", *CPU, "--batch", "2")
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert lines["digits"].endswith("1.4 MiB")  # 2 * 10 * 16 * 1152 numbers
    assert " reconstruction    capsules digits, image, labels " in lines["losses.reconstruction"]
    assert "one number" in lines["losses.reconstruction"]
    assert "1,411,344" in lines["losses.reconstruction"]
    assert "votes, not created all at once unless few: 1.4 MiB" in printed
    assert "batch: 2 images (--batch)" in printed


@pytest.mark.parametrize(
    ("columns", "left_out"), [("82", []), ("80", ["inputs"]), ("60", ["layer", "inputs"]), ("40", None)]
)
def test_narrow_terminals_get_fewer_columns(columns, left_out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = shown(capsys, "quickstart", *CPU).splitlines()
    table = lines[1 : lines.index("batch: 64 images (data.batch_size)")]
    if left_out is None:
        left_out = ["layer", "inputs", "output shape"]
    note = f"hidden to fit a width of {columns}: {', '.join(left_out)} (COLUMNS=200 or --json shows all)"
    assert (table[-1] == note) == bool(left_out)
    rows = table[:-1] if left_out else table
    assert not any(heading in rows[0] for heading in left_out)
    assert len(rows) == 2 + 5  # none is folded
    if columns != "40":
        assert all(len(line) <= int(columns) for line in rows)


def test_json_has_all_of_it(capsys):
    data = json.loads(shown(capsys, "quickstart", "--json", *SMALL, "--set", "model.nodes.stem.trainable=false"))
    assert data["name"] == "quickstart"
    assert data["batch_size"] == 64
    assert [node["name"] for node in data["nodes"]] == ["stem", "stage1", "stage2", "digits", "lengths"]
    stem, stage = data["nodes"][:2]
    assert stage["output_shape"] == [8, 8, 2, 4]
    assert stage["inputs"] == ["stem"]
    assert stage["arguments"]["kind"] == "approximate"
    assert (stem["weights"], stem["fixed_weights"]) == (0, 9 * 16 + 16 + 4 * 16 + 1)
    assert stem["multiply_adds"] == 16 * 16 * 16 * 9
    assert stem["votes_bytes"] is None
    for total, part in (("parameters", "weights"), ("fixed_parameters", "fixed_weights")):
        assert data[total] == sum(node[part] for node in data["nodes"])
    memory = data["memory_bytes"]
    assert memory["activations"] == sum(node["memory_bytes"] for node in data["nodes"])
    assert memory["total"] == sum(
        memory[name] for name in ("parameters", "gradients", "optimizer", "activations", "images")
    )
    assert data["unused"] == memory["unknown"] == []


def test_nodes_that_reach_no_output_are_named(capsys, wide):
    assert (
        shown(capsys, "quickstart", *SMALL, *UNUSED).splitlines()[-1]
        == "unused: stage2, digits, lengths (reach no output)"
    )
    assert json.loads(shown(capsys, "quickstart", "--json", *SMALL, *UNUSED))["unused"] == [
        "stage2",
        "digits",
        "lengths",
    ]


def test_what_is_not_known_is_a_question_mark_with_a_reason(capsys, wide, tmp_path):
    nodes = {
        "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4},
        "pooled": {"layer": "keras.GlobalAveragePooling2D", "inputs": "stem"},
    }
    model = {"inputs": {"image": [None, None, 3]}, "nodes": nodes, "outputs": {"out": "pooled"}}
    file = tmp_path / "open.yaml"
    file.write_text(yaml.safe_dump({"spec": "encapkeras/1", "model": model}))
    lines = shown(capsys, str(file), *CPU).splitlines()
    assert lines[3].split()[-2:] == ["?", "?"]
    assert "? x ? x 4" in lines[3]
    assert lines[-2:] == [
        "? stem: the size of image is unknown before there are images",
        "? pooled: the size of stem is unknown before there are images",
    ]
    assert "batch: 64 images (the default)" in lines


def test_a_sweep_is_named(capsys, wide, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("spec: encapkeras/1\nextends: quickstart.yaml\nsweep: {grid: {vars.types: [4, 2]}}\n")
    lines = shown(capsys, str(file), *SMALL).splitlines()
    assert lines[-1] == "sweep: 2 networks; this is the spec without it"


def test_a_flowchart_is_printed(capsys):
    lines = shown(capsys, "quickstart", "--mermaid", *SMALL).splitlines()
    assert lines[0] == "flowchart TD"
    assert any("<b>stage1</b><br/>capsule_stage<br/>8 x 8 x 2 x 4" in line for line in lines)


def test_a_picture_is_written_and_never_over_another_file(capsys, tmp_path):
    file = tmp_path / "net.svg"
    assert shown(capsys, "quickstart", *SMALL, "--svg", str(file)) == f"{file}: written\n"
    text = file.read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  # our own
    message = refused(capsys, "show", "encapnet_master", *CPU, "--svg", file)
    assert message == f"'{file}' already exists. Name another file with --svg, or replace it with --overwrite.\n"
    assert file.read_text() == text
    shown(capsys, "quickstart", "--set", "vars.types=4", *CPU, "--svg", str(file), "--overwrite")
    assert file.read_text() != text


@pytest.mark.parametrize(
    ("file", "words", "same"),
    [
        ("net.svg", [], None),
        ("net.mmd", [], ["--mermaid"]),
        ("net.json", [], ["--json"]),
        ("net.json", ["--diff", "quickstart"], ["--json"]),
    ],
)
def test_the_ending_of_the_file_says_what_is_written(file, words, same, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(capsys, "quickstart", *SMALL, *words, "-o", file) == f"{file}: written\n"
    text = (tmp_path / file).read_text()
    assert text == shown(capsys, "quickstart", *SMALL, *words, *same) if same else text.startswith("<svg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "net.png"], "-o must name a .json or .svg or .mmd file; received 'net.png'"),
        (
            ["-o", "net.svg", "--json"],
            "-o must name a .json file for --json; received 'net.svg'. Without --json, that is written as svg.",
        ),
        (["-o", "net.svg", "--svg", "a.svg"], "-o and --svg both name the file to write; leave out one of them"),
        (["--svg", "net.png"], "--svg must name a .svg file; received 'net.png'"),
        (
            ["--svg", "nowhere/net.svg"],
            "'nowhere/net.svg' cannot be written: 'nowhere' is not a folder. Create it first.",
        ),
        (["--batch", "0"], "--batch must be a number of images, at least 1; received 0"),
        (["--mermaid", "--json"], "--json, --svg and --mermaid are different formats; choose one"),
        (
            ["--mermaid", "--diff", "resnet14"],
            "--diff prints a table or, with --json, data, and draws nothing; leave out the picture",
        ),
    ],
)
def test_what_cannot_be_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "show", "quickstart", *words) == f"{message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [["--svg", "net.svg"], ["--mermaid"]], ids=str)
def test_a_picture_of_very_many_nodes_is_refused(form, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "MOST_BOXES", 4)
    assert refused(capsys, "show", "quickstart", *form) == "a picture shows up to 4 nodes; the spec has 5\n"


def test_a_difference_is_from_the_other_spec_to_this_one(capsys):
    printed = shown(capsys, "quickstart", *SMALL, "--set", "train.epochs=3", "--diff", "quickstart")
    lines = printed.splitlines()
    assert lines[:6] == [
        "quickstart -> quickstart vars.types=2 train.epochs=3",
        "nodes",
        "  ~ stage1",
        "      types: 8 -> 2",
        "      output shape: 8 x 8 x 8 x 4 -> 8 x 8 x 2 x 4",
        "      weights: 57,728 -> 10,064 (-82.6%)",
    ]
    assert lines[lines.index("settings") + 1] == "  ~ train.epochs: 12 -> 3"
    assert lines[-3].startswith("    parameters: 295,584 -> ")


def test_a_difference_is_data_too(capsys):
    data = json.loads(shown(capsys, "quickstart", *SMALL, "--diff", "quickstart", "--json"))
    assert (data["before"], data["after"], data["batch_size"]) == ("quickstart", "quickstart", [64, 64])
    assert data["changed"]["stage1"]["types"] == [8, 2]
    assert data["totals"]["parameters"][0] == 295584


def test_no_difference_is_said_in_words(capsys):
    assert shown(capsys, "quickstart", *CPU, "--diff", "quickstart") == "quickstart -> quickstart\nno difference\n"


def test_mistakes_of_either_spec_are_reported(capsys):
    for words in (["quickstart", "--set", "vars.typs=3"], ["quickstart", "--diff", "quickstrat"]):
        assert main(["show", *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Did you mean" in captured.err
