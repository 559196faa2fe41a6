"""Pictures: what they show, that lines cross no box, and that any name is only text."""

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings, strategies
from support.side_loss_spec import spec_with

from encapkeras.model.examine import examine_spec
from encapkeras.summary.cost import node_costs
from encapkeras.summary.diagram import Arrow, Box, Diagram, blocks_of, diagram_of
from encapkeras.summary.drawing.layout import Item, Link, lay_out
from encapkeras.summary.drawing.picture import arrange, box_height, box_width
from encapkeras.summary.drawing.svg import as_svg
from encapkeras.summary.mermaid import as_mermaid

SVG = "{http://www.w3.org/2000/svg}"
PROJECT = Path(__file__).parents[2]
NASTY = """<b>&amp;"end" `x` #35; ;%%\\n{}[]() --> |a| 'x' ]]> <!-- é €"""


def drawn(source, overrides=(), batch_size=8):
    network = examine_spec(source, overrides)
    return diagram_of(network, node_costs(network, batch_size, "cpu"), batch_size)


@pytest.fixture(scope="module")
def resnet():
    return drawn("resnet14_ot", ["data.image_size=8"])


def texts(svg):
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314  # our own


# --- what is in it


def test_inputs_nodes_outputs_and_side_losses_are_boxes_of_their_kinds():
    diagram = drawn(spec_with())
    assert [(box.title, box.kind) for box in diagram.boxes] == [
        ("image", "input"),
        ("stem", "convolution"),
        ("stage", "capsules"),
        ("digits", "capsules"),
        ("lengths", "capsules"),
        ("reconstruction", "loss"),
        ("classes", "output"),
    ]
    arrows = [(arrow.source, arrow.target, arrow.label) for arrow in diagram.arrows if "losses." in arrow.target]
    assert arrows == [
        ("digits", "losses.reconstruction", "capsules"),
        ("image", "losses.reconstruction", "image"),  # and no arrow from the labels, which no box makes
    ]
    assert diagram.boxes[-1].layer == "margin loss"


def test_blocks_hold_their_nodes(resnet):
    whole = blocks_of(resnet)
    assert [member.title for member in whole.members[:4]] == ["image", "stem", "block1", "block2"]
    block = whole.members[4]
    assert (block.path, [member.title for member in block.members]) == (
        "block3",
        ["convolutions", "skip", "projected", "sum", "relu"],
    )
    assert [box.key for box in block.members[0].members] == [
        f"block3.convolutions.{name}" for name in ("first", "second", "normal")
    ]


def test_initializers_are_left_to_the_hint():
    box = next(box for box in drawn("encapnet_master_sub2").boxes if box.key == "stage1")
    assert box.arguments.startswith("types: 32, dim: 2")
    assert "initializer" not in box.arguments
    assert "kernel_initializer: {class_name: variance_scaling" in box.remark


# --- places


def rectangles(picture, diagram):
    width = box_width(diagram.boxes)
    return [(box.key, at.x, at.y, at.x + width, at.y + box_height(box)) for box, at in picture.boxes]


def pieces(picture):
    for line in picture.lines:
        for start, end in itertools.pairwise(line.points):
            yield line, start, end


def assert_sound(diagram):
    """No box on another, no line through a box or beside the straight, and every arrow from box to box."""
    picture = arrange(diagram)
    boxes = rectangles(picture, diagram)
    for (_, x, y, right, low), (_, other_x, other_y, other_right, other_low) in itertools.combinations(boxes, 2):
        assert right <= other_x or other_right <= x or low <= other_y or other_low <= y
    for line, start, end in pieces(picture):
        assert start.x == end.x or start.y == end.y
        assert start.y <= end.y
        left, right = sorted((start.x, end.x))
        for key, x, y, box_right, low in boxes:
            inside = left < box_right and right > x and start.y < low and end.y > y
            assert not inside, f"{line.arrow} crosses {key}"
    for _, at, wide, high in picture.frames:
        assert -0.01 <= at.x <= at.x + wide <= picture.width + 0.01
        assert -0.01 <= at.y <= at.y + high <= picture.height + 0.01
    tops = {key: (x, y, right) for key, x, y, right, _ in boxes}
    arrived = set()
    for line in picture.lines:
        if line.ends:
            x, y, right = tops[line.arrow.target]
            assert line.points[-1].y == y
            assert x < line.points[-1].x < right
            arrived.add(line.arrow)
    assert arrived == set(diagram.arrows)
    return picture


@pytest.mark.parametrize("name", ["quickstart", "capnet_em", "encapnet_ot_all"])
def test_bundled_networks_are_sound(name):
    assert_sound(drawn(name, batch_size=1))


def test_blocks_are_frames_around_their_boxes_alone(resnet):
    picture = assert_sound(resnet)
    frames = {block.path: (at.x, at.y, at.x + wide, at.y + high) for block, at, wide, high in picture.frames}
    homes = {box.key: box.block for box in resnet.boxes}
    for key, x, y, right, low in rectangles(picture, resnet):
        for path, (left, top, frame_right, bottom) in frames.items():
            inside = left < x and right < frame_right and top < y and low < bottom
            outside = right <= left or frame_right <= x or low <= top or bottom <= y
            assert inside if f"{homes[key]}.".startswith(f"{path}.") else outside, (key, path)


def test_the_main_path_is_straight(resnet):
    width = box_width(resnet.boxes)
    middles = {box.key: at.x + width / 2 for box, at in arrange(resnet).boxes}
    main = ["image", "stem", "block1.sum", "block3.convolutions.first", "block6.relu", "scores", "outputs/classes"]
    assert len({round(middles[key], 3) for key in main}) == 1


@strategies.composite
def networks(draw):
    """Boxes, each with some before it as inputs, in blocks within blocks."""
    count = draw(strategies.integers(2, 14))
    paths = ["", "", "a", "a.b", "c"]
    boxes, arrows = [Box("0", "0", "input")], []
    for number in range(1, count):
        path = draw(strategies.sampled_from(paths))
        kind = draw(strategies.sampled_from(["keras", "capsules", "loss"]))
        boxes.append(
            Box(str(number), str(number), kind, "some.Layer", shape="8 x 8", block="" if kind == "loss" else path)
        )
        sources = [box.key for box in boxes[:-1] if box.kind != "loss"]
        for source in draw(strategies.lists(strategies.sampled_from(sources), min_size=1, max_size=3, unique=True)):
            arrows.append(Arrow(source, str(number), role="in" if kind == "loss" else ""))
    return Diagram("random", "", boxes, arrows)


@settings(max_examples=40, deadline=None)
@given(networks())
def test_any_network_is_sound(diagram):
    assert_sound(diagram)
    ElementTree.fromstring(as_svg(diagram))  # noqa: S314  # our own


def test_a_node_between_two_of_one_block_takes_its_frame_away():
    boxes = [Box("x", "x", "input"), Box("a.1", "1", "keras", block="a"), Box("y", "y", "keras")]
    boxes.append(Box("a.2", "2", "keras", block="a"))
    diagram = Diagram("tangled", "", boxes, [Arrow("x", "a.1"), Arrow("a.1", "y"), Arrow("y", "a.2")])
    picture = assert_sound(diagram)
    assert picture.frames == []
    assert "a.2" in texts(as_svg(diagram))


def test_lines_that_end_at_one_box_end_side_by_side():
    items = [Item(key, 100, 40) for key in "abc"]
    links = [Link("ac", "a", "c", 50, 25), Link("bc", "b", "c", 50, 75)]
    layout = lay_out(items, links)
    assert [layout.ways[key][-1].x - layout.corners["c"].x for key in ("ac", "bc")] == [25, 75]
    assert layout.corners["a"].y == layout.corners["b"].y == 0


def test_nothing_has_a_picture_too():
    assert lay_out([], []).width == 0


# --- SVG


def test_svg_is_the_same_each_time_and_stands_alone(resnet):
    svg = as_svg(resnet)
    assert svg == as_svg(resnet)
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"href|url\(|<script|<image|@import", svg)
    root = ElementTree.fromstring(svg)  # noqa: S314  # our own
    kinds = {f"box {kind}" for kind in ("input", "convolution", "keras", "loss", "output")}
    assert {e.get("class") for e in root.iter(f"{SVG}rect")} >= kinds
    assert any("dotted" in e.get("class") for e in root.iter(f"{SVG}path"))
    assert "latent" in texts(svg)
    assert "side loss, in training" in texts(svg)


def test_all_text_is_inside_the_picture(resnet):
    svg = as_svg(resnet)
    root = ElementTree.fromstring(svg)  # noqa: S314  # our own
    width, height = float(root.get("width")), float(root.get("height"))
    moved = root.find(f"{SVG}g")
    left, top = map(float, re.findall(r"[\d.]+", moved.get("transform")))
    for path in moved.iter(f"{SVG}path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d").partition("l")[0])]
        assert all(0 <= x + left <= width for x in numbers[::2])
        assert all(0 <= y + top <= height for y in numbers[1::2])


def test_names_and_remarks_are_only_text_in_svg():
    boxes = [
        Box("a", NASTY, "input", shape="1"),
        Box("b", "b", "keras", NASTY, NASTY, "1", "1", "", f"{NASTY}\n\x1b[0m"),
    ]
    svg = as_svg(Diagram(NASTY, NASTY, boxes, [Arrow("a", "b", port=NASTY)]))
    root = ElementTree.fromstring(svg)  # noqa: S314  # our own
    assert NASTY in texts(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg",
        "style",
        "rect",
        "text",
        "g",
        "path",
        "title",
    }
    assert root.find(f".//{SVG}title").text == f"{NASTY}\n\\x1b[0m"


def test_long_texts_are_cut_where_the_box_ends():
    boxes = [Box("a", "a" * 90, "keras", "l" * 90, "x: " + "1" * 90, "1")]
    shown = [text for text in texts(as_svg(Diagram("t", "", boxes, []))) if text.endswith("…")]
    assert len(shown) == 3
    assert max(map(len, shown)) < 60


# --- Mermaid


def test_mermaid_has_boxes_arrows_and_nested_blocks(resnet):
    lines = as_mermaid(resnet).splitlines()
    assert lines[0] == "flowchart TD"
    assert (
        sum(line.strip().startswith("subgraph") for line in lines)
        == 12
        == lines.count("    end") + lines.count("        end")
    )
    assert sum("-.->|" in line for line in lines) == 4
    assert '            n2["<b>first</b><br/>conv_bn_relu<br/>8 x 8 x 16"]:::convolution' in lines


def test_names_are_only_text_in_mermaid():
    text = as_mermaid(Diagram("t", "", [Box("a", NASTY, "keras", NASTY, shape=NASTY)], []))
    label = re.search(r'n0\["(.*)"\]:::keras', text)[1]
    plain = re.sub(r"</?b>|<br/>|#\w+;", "", label)
    assert not set(plain) & set('<>"&`;#\\')


PARSE = """
import { JSDOM } from 'jsdom';
import { readFileSync } from 'fs';
globalThis.window = new JSDOM('').window;
globalThis.document = window.document;
const { default: mermaid } = await import('mermaid');
for (const text of JSON.parse(readFileSync(0, 'utf8'))) console.log((await mermaid.parse(text)).diagramType);
"""
# `npm install --prefix DIR mermaid jsdom` makes a folder whose commands, beside which are the packages, go on the PATH.
NODE = shutil.which("node")
NODE_MODULES = [Path(folder).parent for folder in os.environ["PATH"].split(os.pathsep) if Path(folder).name == ".bin"]
WITH_MERMAID = [modules for modules in NODE_MODULES if (modules / "mermaid").is_dir() and (modules / "jsdom").is_dir()]


@pytest.mark.slow
@pytest.mark.skipif(
    not (NODE and WITH_MERMAID) and not os.environ.get("CI"),
    reason="no mermaid and jsdom beside a node_modules/.bin on the PATH: npm install mermaid jsdom",
)
def test_the_real_parser_takes_it(resnet, tmp_path):
    nasty = Diagram("t", "", [Box("a", NASTY, "keras", NASTY), Box("b", "b", "loss")], [Arrow("a", "b", NASTY, NASTY)])
    charts = [as_mermaid(diagram) for diagram in (resnet, drawn("quickstart"), drawn(spec_with()), nasty)]
    (tmp_path / "node_modules").symlink_to(WITH_MERMAID[0])
    (tmp_path / "parse.mjs").write_text(PARSE)
    done = subprocess.run([NODE, "parse.mjs"], input=json.dumps(charts), capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["flowchart-v2"] * 4, done.stderr


def test_the_picture_in_the_documentation_is_that_of_the_command():
    picture = PROJECT / "docs" / "images" / "quickstart.svg"
    assert picture.read_text(encoding="utf-8") == as_svg(drawn("quickstart", batch_size=64)), (
        "run: encapkeras show quickstart --device cpu --svg docs/images/quickstart.svg --overwrite"
    )


def test_the_flowchart_in_the_documentation_is_that_of_the_command():
    page = (PROJECT / "docs" / "show.md").read_text(encoding="utf-8")
    shown = re.search(r"```mermaid\n(.*?)\n```", page, re.DOTALL)[1]
    assert shown == as_mermaid(drawn("quickstart"))
