"""Specs that were written to do harm end soon, in little memory, with a message that shows nothing raw.

They are read one after the other in a process of their own, through the steps that need neither Keras nor torch.
"""

import itertools
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SECONDS, MEGABYTES = 2, 200

# Reads specs and expands them, and tells what each took: seconds of the processor, which others use too, and the peak
# of memory of all so far.
READ = textwrap.dedent(
    """
    import json, re, sys, time
    from pathlib import Path
    from encapkeras.errors import SpecError
    from encapkeras.spec.blocks import read_blocks
    from encapkeras.spec.expand import Expansion
    from encapkeras.spec.inherit import Inheritance, cleaned
    from encapkeras.spec.parse import load_file
    from encapkeras.spec.report import Report
    from encapkeras.spec.tree import Tree
    from encapkeras.spec.variables import Scope, Variables

    def part(tree, key):
        return tree.entries().get(key, Tree({}, tree.file, 0, 0, key))

    def read(path):
        report = Report()
        tree = cleaned(Inheritance(path.parent, report).resolve(load_file(path, path.name, report), path))
        variables = Variables(part(tree, "vars").entries(), Scope({}), report)
        variables.compute_all()
        expansion = Expansion(variables, read_blocks(part(tree, "blocks"), report), report)
        expansion.expand(part(part(tree, "model"), "nodes"), ["image"])
        report.raise_if_any()

    for path in map(Path, sys.argv[1:]):
        start = time.process_time()
        try:
            read(path)
            message = ""
        except SpecError as error:
            message = str(error)
        print(json.dumps({
            "seconds": time.process_time() - start,
            "megabytes": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024,
            "heavy": sorted({"keras", "torch"} & set(sys.modules)),
            "message": message,
        }))
    """
)


def nested(levels):
    """`a` through many levels of a map, one more space each."""
    return "\n".join(" " * level + "a:" for level in range(levels))


def node(arguments, nodes="a"):
    return f"model: {{nodes: {{{nodes}: {{layer: squash, inputs: image, {arguments}}}}}}}"


def doubling(names, value):
    """Variables, each of which is made of the next by a text with `?` for its name."""
    return ", ".join(f"{name}: {value('?', after)}" for name, after in itertools.pairwise(names))


LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLOCKS = ", ".join(
    f"{a}: {{nodes: {{x: {{layer: block.{b}, inputs: input}}, y: {{layer: block.{b}, inputs: x}}}}, output: y}}"
    for a, b in itertools.pairwise(LETTERS)
)

ANCHORS = "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in itertools.pairwise("abcdefghi"))
MANY_NAMES = ",".join(f"name{i}: 1" for i in range(900))
ROWS = ",".join(["{i: 1}"] * 500)

# What each file holds, and a pattern of what is said about it.
HOSTILE = {
    "anchors": (f"a: &a [x, x]\n{ANCHORS}", "anchors"),
    "merge keys": ("a: &a {b: 1}\nc: {<<: *a}", "merge keys"),
    "10 MB in one text": (f"name: {'x' * 10_000_000}", "larger than 2 MiB"),
    "a long text": (f"name: {'x' * 1_900_000}", "1,900,000 characters"),
    "a long key": (f"? {'x' * 1_900_000}\n: 1", "1,900,000 characters"),
    "a long number": (f"vars: {{a: {'9' * 9_000}}}", "a number of 9000 characters"),
    "10,000 lists": ("a: " + "[" * 10_000, "nested deeper than 64"),
    "10,000 maps": ("{a: " * 10_000, "nested deeper than 64"),
    "1,500 indented maps": (nested(1_500), "nested deeper than 64"),
    "many values": ("a: [" + "1," * 900_000 + "]", "more than 150,000 values"),
    "many keys": (f"a: {{{','.join(f'{i:x}: ' for i in range(230_000))}}}", "more than 150,000 values"),
    "many mistakes": (
        f"vars: {{{','.join(f'a{i}: $nothing' for i in range(50_000))}}}",
        "100 errors found, and there may be more",
    ),
    "many near names": (f"vars: {{{MANY_NAMES},{','.join(f'b{i}: $name_{i}' for i in range(90))}}}", "90 errors"),
    "rows by arithmetic": (node("repeat: $(10**9)"), "must be a list of rows"),
    "towers": (node("axis: $(9**9**9)"), "exponent"),
    "a long expression": (node(f"axis: $({'1+' * 4_000}1)"), "longer than 200"),
    "parentheses": (node(f"axis: $({'(' * 3_000}1{')' * 3_000})"), "longer than 200"),
    "many rows": (f"vars: {{r: [{ROWS}]}}\n" + node(f"repeat: $r, doc: [{'x,' * 2_000}]"), "150,000 values"),
    "lists of lists": (f"vars: {{a: [{'1,' * 999}]}}\n" + node(f"expect: [{'$a,' * 50_000}]"), "150,000 values"),
    "doubled lists": (f"vars: {{{doubling(LETTERS, '[$?, $?]'.replace)}, z: 1}}", "more than 3000 values"),
    "doubled texts": (f"vars: {{{doubling(LETTERS, '$?$?'.replace)}, z: xx}}", "more than 1000 characters"),
    "doubled nothing": (f"vars: {{{doubling(LETTERS, '[$?, $?]'.replace)}, z: []}}", "more than 3000 values"),
    "many empty lists": (
        node(f"repeat: [{','.join(['{i: 1}'] * 30)}], doc: [{'[],' * 100_000}]"),
        "more than 150,000 values",
    ),
    "large powers": ("vars: {a: $(1000000**60)}", "too large"),
    "a long name": (f"extends: {'x' * 5_000}", "not found"),
    "deep variables": (
        f"vars: {{{doubling(LETTERS, ('[' * 60 + '$?' + ']' * 60).replace)}, z: 1}}",
        "need each other more than",
    ),
    "variables in a circle": ("vars: {a: $b, b: $a}", "in a cycle"),
    "a chain of variables": (
        f"vars: {{{','.join(f'v{i}: $v{i + 1}' for i in range(20_000))}}}",
        "need each other more than",
    ),
    "doubled blocks": (
        f"blocks: {{{BLOCKS}}}\nmodel: {{nodes: {{n: {{layer: block.a, inputs: image}}}}}}",
        "nested more than 16|more than 150,000 values|more than 10000 nodes",
    ),
    "blocks in a circle": (
        "blocks: {a: {nodes: {x: {layer: block.a, inputs: input}}, output: x}}\n"
        "model: {nodes: {n: {layer: block.a, inputs: image}}}",
        "in a cycle",
    ),
    "itself": ("extends: spec.yaml", "in a cycle"),
    "a file above": ("extends: ../../etc/passwd", "not found|leaves the folder"),
    "an absolute path": ("extends: /etc/passwd", "is absolute"),
    "a device": ("extends: ../../../../../../../../dev/zero", "not found|leaves the folder"),
    "many bases": (f"extends: [{'quickstart.yaml,' * 5_000}]", "at most 100"),
    "python objects": ('a: !!python/object/apply:os.system ["echo hacked"]', "the tag"),
    "own tags": ("a: !x 1\nb: !!set {c}", "the tag"),
    "escapes in keys": (
        'model: {nodes: {"\\e]0;hacked\\a\\n\\e[31mred": {layer: squash, inputs: image}}}',
        "is not a valid node name",
    ),
    "escapes in values": ('vars: {a: "$\\e[2J"}\n' + node('axis: "\\x9b31m $b\\r\\u202e"'), "no variable"),
    "raw escapes": ("a: \x1b[31m", "not allowed"),
    "forged lines": ('vars: {"a\\nspec.yaml:1:1  forged": 1, b: "$(c\\n)"}', r"Allowed: a\\nspec"),
    "an unfinished text": ('a: "' + "x\n" * 500_000, "invalid YAML"),
    "colons": (":" * 1_900_000, "invalid YAML"),
    "question marks": ("? " * 500_000, "nested deeper|invalid YAML"),
    "dashes": ("- " * 500_000, "nested deeper"),
    "comments": ("# x\n" * 400_000, "empty"),
}


# Files beside each of them.
BESIDE = {"large.yaml": f"vars: {{{','.join(f'n{i}: 1' for i in range(90_000))}}}"}
HOSTILE["many merges"] = (
    f"extends: [{','.join(f'm{i}.yaml' for i in range(20))}]",
    "more than 150,000 values",
)
BESIDE |= {f"m{i}.yaml": "extends: large.yaml" for i in range(20)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each file, by its name here."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for number, (text, _) in enumerate(HOSTILE.values()):
        paths.append(folder / str(number) / "spec.yaml")
        paths[-1].parent.mkdir()
        paths[-1].write_text(text)
        if "m0.yaml" in text:
            for beside, content in BESIDE.items():
                (paths[-1].parent / beside).write_text(content)
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * len(HOSTILE))
    assert done.returncode == 0, done.stderr
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured with Linux's /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_soon(name, outcomes):
    took = outcomes[name]
    assert re.search(HOSTILE[name][1], took["message"]), took["message"][:500]
    assert took["message"].replace("\n", "").isprintable()
    assert len(took["message"]) < 100_000
    assert took["heavy"] == []
    assert took["seconds"] < SECONDS
    assert took["megabytes"] < MEGABYTES
