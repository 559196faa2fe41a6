"""`$name`, `$(arithmetic)` and `repeat`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encapkeras import SpecError, check_spec, load_spec
from encapkeras.spec.arithmetic import ExpressionError, compute


def value(expression, **names):
    return compute(expression, names.__getitem__)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512),
        ("7 // 2 - 7 % 4", 0),
        ("8 / 4", 2),
        ("1 / 4", 0.25),
        ("1e-3 * 2", 0.002),
        ("- -+-3", -3),
        ("$height / 2 + width", 9),
        (" 4 ", 4),
    ],
)
def test_arithmetic_is_pythons(expression, result):
    computed = value(expression, height=8, width=5)
    assert computed == result
    assert type(computed) is type(result)


def joined(parts):
    return "({} {} {})".format(*parts)


numbers = st.integers(0, 99).map(str)
expressions = st.recursive(numbers, lambda e: st.tuples(e, st.sampled_from("+-*%"), e).map(joined), max_leaves=8)


@given(expressions)
def test_arithmetic_agrees_with_python(expression):
    try:
        expected = eval(expression)  # noqa: S307
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="zero"):
            value(expression, a=1, f=1)
    else:
        assert value(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        *("", "2 +", "(2", "2)", "2 3", "a.b", "f(2)", "'x'", "[1]", "1 if 1 else 2", "\u0663"),
        *("1 / 0", "1 // 0", "1 % 0", "0 ** -1", "9 ** 65", "9 ** 64", "(-8) ** 0.5", "1e999", "9" * 30),
        *("1 +" * 100 + "1", "(" * 30 + "1" + ")" * 30),
    ],
)
def test_what_cannot_be_computed_is_an_error(expression):
    with pytest.raises(ExpressionError):
        value(expression, a=1, f=1)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("2 3", "unexpected '3'"),
        ("* 2", "unexpected '*'"),
        ("2)", "unexpected ')'"),
        ("(2))", "unexpected ')'"),
        ("2 (3)", "unexpected '('"),
        ("()", "unexpected ')'"),
        ("2 +", "unexpected end"),
        ("(2", "a closing parenthesis is missing"),
        ("2 ^ 3", "'^' is not allowed; allowed: numbers, names, + - * / // % ** ( )"),
        ("1_000", "unexpected '_000'"),
        ("0x1F", "unexpected 'x1F'"),
        ("1j", "unexpected 'j'"),
        ("$yes + 1", "'$yes' is True, not a number"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 65", "the exponent 65 exceeds 64"),
        ("9 ** 64", "a number becomes too large"),
        ("0.5 * 1e200", "a number becomes too large"),
        ("(-8) ** 0.5", "-8 ** 0.5 is not a real number"),
        ("1 +" * 67 + "1", "longer than 200 characters"),
        ("(" * 21 + "1" + ")" * 21, "more than 20 parentheses"),
    ],
)
def test_errors_of_arithmetic_name_their_cause(expression, words):
    with pytest.raises(ExpressionError) as caught:
        value(expression, yes=True)
    assert str(caught.value) == words


@pytest.mark.parametrize(("expression", "result"), [("lambda + $in", 5), ("010 + 08", 18), ("None ** None", 4)])
def test_what_python_reads_otherwise_is_a_number_or_a_name(expression, result):
    assert value(expression, **{"lambda": 2, "in": 3, "None": 2}) == result


@given(st.text(alphabet="0123456789.e+-*/%() $ab_", max_size=40))
def test_any_text_is_a_number_or_an_error(text):
    try:
        assert isinstance(value(text, a=3, b=0.5), int | float)
    except (ExpressionError, KeyError):
        pass


def spec_of(nodes, **sections):
    last = list(nodes)[-1]
    data = {"model": {"inputs": {"image": [8, 8, 4]}, "nodes": nodes, "outputs": {"out": sections.pop("out", last)}}}
    return {**data, **sections}


def nodes_of(nodes, **sections):
    return load_spec(spec_of(nodes, **sections)).resolved["model"]["nodes"]


def messages(data):
    with pytest.raises(SpecError) as caught:
        check_spec(data)
    return [problem.message for problem in caught.value.problems]


def test_a_lone_name_keeps_its_type_and_is_text_inside_a_text():
    variables = {"n": 3, "half": 0.5, "yes": True, "kind": "same", "shape": [8, 8, 3], "name": "$kind$n-$(n+1)"}
    node = {"layer": "keras.Conv2D", "inputs": "image", "filters": "$n", "kernel_size": 1, "padding": "$kind"}
    nodes = nodes_of({"$name": {**node, "use_bias": "$yes", "expect": "$shape", "doc": "$5 and $n"}}, vars=variables)
    assert nodes == {
        "same3-4": {**node, "filters": 3, "padding": "same", "use_bias": True, "expect": [8, 8, 3], "doc": "$5 and $n"}
    }


def test_variables_use_each_other_and_the_data_set():
    data = {
        "vars": {"double": "$(2 * base)", "base": "$classes", "batch": 16},
        "data": {"dataset": "digits", "batch_size": "$(2 * batch)"},
        "model": {
            "nodes": {
                "flat": {"layer": "keras.Flatten", "inputs": "image", "expect": ["$(height * width * channels)"]},
                "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$double"},
            },
            "outputs": {"scores": "scores"},
        },
    }
    spec = check_spec(data)
    assert spec.resolved["model"]["nodes"]["scores"]["units"] == 20
    assert spec.data.batch_size == 32
    assert spec.inputs == {"image": [32, 32, 1]}


def test_sizes_can_stand_in_vars_instead_of_a_data_set():
    data = spec_of({"scores": {"layer": "keras.Dense", "inputs": "image", "units": "$classes"}})
    del data["model"]["inputs"]
    spec = check_spec({**data, "vars": {"height": 4, "width": 5, "channels": 6, "classes": 7}})
    assert spec.inputs == {"image": [4, 5, 6]}


def test_the_data_section_cannot_use_what_the_data_set_tells():
    data = {**spec_of({"a": {"layer": "keras.ReLU", "inputs": "image"}}), "data": {"dataset": "digits"}}
    data["data"]["batch_size"] = "$classes"
    assert len(messages(data)) == 1
    assert "choose another name" in messages({**data, "data": {"dataset": "digits"}, "vars": {"classes": 3}})[0]


def test_variables_do_not_grow_without_bound():
    nodes = {"a": {"layer": "keras.ReLU", "inputs": "image"}}
    texts = {"x0": "y" * 900, **{f"x{i}": f"$x{i - 1}" * 10 for i in range(1, 30)}}
    assert any("characters" in message for message in messages(spec_of(nodes, vars=texts)))
    lists = {"x0": [1] * 10, **{f"x{i}": [f"$x{i - 1}"] * 10 for i in range(1, 30)}}
    assert any("values" in message for message in messages(spec_of(nodes, vars=lists)))
    chain = {"x0": 1, **{f"x{i}": f"$x{i - 1}" for i in range(1, 500)}}
    assert check_spec(spec_of(nodes, vars=chain))
    backwards = {name: chain[name] for name in reversed(chain)}
    assert any("deep" in message for message in messages(spec_of(nodes, vars=backwards)))
    rows = {"repeat": [{"i": i} for i in range(11_000)], "layer": "keras.ReLU", "inputs": "image"}
    assert any("more than 10000" in message for message in messages(spec_of({"r$i": rows}, out="r1")))


@pytest.mark.parametrize(
    "use", ["$(x{})", "$(2 * x{} % 7)", "$({})".format("(" * 18 + "x{}" + ")" * 18), "[$x{}]", "$x{}"]
)
def test_deep_chains_of_variables_end_in_a_value_or_a_message(use):
    nodes = {"a": {"layer": "keras.ReLU", "inputs": "image"}}
    for deepest in (48, 98):
        chain = {f"x{i}": use.format(i + 1) for i in range(deepest)}
        assert check_spec(spec_of(nodes, vars={**chain, f"x{deepest}": 1}))
    chain = {f"x{i}": use.format(i + 1) for i in range(120)}
    assert any("need each other more than 100 deep" in m for m in messages(spec_of(nodes, vars={**chain, "x120": 1})))


def test_rows_become_nodes_that_follow_each_other():
    row = {"layer": "keras.Dense", "inputs": "$previous", "units": "$(i * 2)"}
    nodes = nodes_of(
        {
            "first$i": {"repeat": [{"i": 1}, {"i": 2}], **row},
            "between": {"layer": "keras.ReLU", "inputs": "image"},
            "second$i": {"repeat": [{"i": 3}], **row},
        },
        out="second3",
    )
    assert {name: node["inputs"] for name, node in nodes.items()} == {
        "first1": "image",
        "first2": "first1",
        "between": "image",
        "second3": "between",
    }
    assert nodes["second3"]["units"] == 6


def test_previous_may_be_one_of_several_inputs_and_have_a_port():
    stage = {"layer": "capsule_stage", "types": 2, "dim": 2, "strides": 1}
    nodes = nodes_of(
        {
            "s0": {**stage, "inputs": "image"},
            "s$i": {**stage, "repeat": [{"i": 1}, {"i": 2}], "inputs": "$previous/main"},
            "sum$i": {"repeat": [{"i": 1}], "layer": "keras.Add", "inputs": ["$previous", "s0"]},
        },
        out="sum1",
    )
    assert (nodes["s1"]["inputs"], nodes["s2"]["inputs"]) == ("s0/main", "s1/main")
    assert nodes["sum1"]["inputs"] == ["s2", "s0"]


def test_rows_shadow_variables():
    rows = {"repeat": [{"i": 1}, {"i": 2, "units": 7}], "layer": "keras.Dense", "inputs": "image", "units": "$units"}
    nodes = nodes_of({"r$i": rows}, vars={"units": 3}, out="r1")
    assert [node["units"] for node in nodes.values()] == [3, 7]


def test_one_error_in_all_rows_is_reported_once():
    rows = {"repeat": [{"i": 1}, {"i": 2}], "layer": "keras.Dense", "inputs": "image", "units": 2, "unit": 3}
    with pytest.raises(SpecError) as caught:
        check_spec(spec_of({"r$i": rows}, out="r1"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.note) == ("model.nodes.r$i.unit", "")


def test_nothing_above_the_first_row():
    data = spec_of({"r$i": {"repeat": [{"i": 1}], "layer": "keras.Add", "inputs": ["$previous", "b"]}}, out="r1")
    data["model"]["inputs"]["b"] = [8, 8, 4]
    assert "no single node or input is above" in messages(data)[0]
