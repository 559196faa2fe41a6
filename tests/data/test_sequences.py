"""Sequences and tables: made patterns, .npz files with lengths, .csv files; what is wrong is named by its place."""

import os

import numpy as np
import pytest

from encapkeras import SpecError, build_model, check_spec, load_spec
from encapkeras.cli.main import main
from encapkeras.data import DataSettings, describe, load
from encapkeras.errors import ArgumentError, DataError, EncapkerasError
from encapkeras.training import train


def patterns(**arguments):
    return DataSettings(dataset="patterns", sequences=400, **arguments)


def drawn(**arguments):
    arrays = patterns(**arguments).reader().read()
    return arrays.train_images[:, 0], arrays.train_labels


def test_patterns_are_sequences_of_four_classes():
    info = describe(patterns())
    assert (info.input_shape, info.classes, info.samples) == ((20, 6), 4, "sequences")
    splits = load(patterns(batch_size=32), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (360, 40, 100)
    sequences, labels = splits.train.batch(0)
    assert (tuple(sequences.shape), tuple(labels.shape)) == ((32, 20, 6), (32,))
    assert splits.train.take(np.arange(3)).batch(0)[0].shape == (3, 20, 6)


def test_patterns_are_seeded():
    first, labels = drawn()
    again, _ = drawn()
    other, _ = drawn(seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.bincount(labels).tolist() == [100] * 4
    test = patterns().reader().read().test_images[:, 0]
    assert not (first[:100] == test).all()


@pytest.mark.parametrize("steps", [6, 7, 20, 33])
def test_order_and_length_are_what_the_class_says(steps):
    sequences, labels = drawn(steps=steps)
    lengths = (sequences != 0).any(2).sum(1)
    first, second = sequences[..., 0].argmax(1), sequences[..., 1].argmax(1)
    is_long = lengths >= 2 * steps / 3
    assert (is_long | (lengths <= steps // 2)).all()
    assert (lengths >= 2).all()
    late = sequences[..., :2].max(1).min(1) < 1  # noise may hide an event, hardly ever
    assert late.mean() < 0.01
    agrees = (2 * (first > second) + is_long) == labels
    assert agrees.mean() > 0.97
    assert (first != second).mean() > 0.97


def test_classes_of_one_length_have_the_same_averages():
    arrays = DataSettings(dataset="patterns", sequences=20_000).reader().read()
    sequences, labels = arrays.train_images[:, 0], arrays.train_labels
    sums = np.stack([sequences[labels == label].sum(1).mean(0) for label in range(4)])
    assert np.abs(sums[0] - sums[2]).max() < 0.1
    assert np.abs(sums[1] - sums[3]).max() < 0.1


@pytest.mark.parametrize("arguments", [{"steps": 5}, {"features": 1}])
def test_too_small_patterns_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=f"data.{name} of data set 'patterns' must be at least"):
        describe(patterns(**arguments))


def write_npz(path, **changed):
    random = np.random.default_rng(0)
    arrays = {
        "train_sequences": random.normal(0, 5, (12, 7, 3)),
        "train_lengths": np.arange(12) % 7 + 1,
        "train_labels": np.arange(12) % 3,
        "test_sequences": random.normal(0, 5, (6, 7, 3)),
        "test_lengths": np.full(6, 7),
        "test_labels": np.arange(6) % 3,
        **changed,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return DataSettings(dataset="npz", path=str(path), validation=0.25)


def test_npz_files_have_sequences_with_lengths(tmp_path):
    settings = write_npz(tmp_path / "a.npz")
    assert describe(settings).input_shape == (7, 3)
    arrays = settings.reader().read()
    real = (arrays.train_images[:, 0] != 0).any(2)
    assert np.array_equal(real.sum(1), np.arange(12) % 7 + 1)
    assert real[:, 0].all()
    assert arrays.test_images.dtype == np.float32
    splits = load(settings, seed=0)
    assert splits.test.batch(0)[0].shape == (6, 7, 3)
    single = write_npz(tmp_path / "b.npz", train_sequences=np.ones((12, 7), int), test_sequences=np.ones((6, 7), int))
    assert load(single, seed=0).train.batch(0)[0].shape == (9, 7, 1)


WRONG = [
    ({"train_lengths": np.arange(12)}, "train_lengths: 5 lengths outside 1..7, the first is 0 at index 0"),
    ({"train_lengths": np.ones(11, int)}, "train_lengths: has 11 entries, train_sequences has 12"),
    ({"train_lengths": np.ones(12)}, "train_lengths: lengths are float64; they must be integers"),
    ({"test_sequences": np.ones((6, 8, 3))}, r"test_sequences: sequences are (8, 3) (T, F), those of train_sequences"),
    (
        {"test_sequences": np.full((6, 7, 3), np.nan)},
        "test_sequences: 126 numbers not finite, or too large for float32",
    ),
    ({"test_sequences": np.full((6, 7, 3), 1e300)}, "test_sequences: 126 numbers not finite, or too large"),
    ({"test_sequences": None}, "test_sequences: missing; the file holds"),
    ({"train_sequences": np.ones((12, 7, 3, 1))}, "has shape (12, 7, 3, 1); allowed are (N, T) and (N, T, F)"),
    ({"train_images": np.ones((12, 7, 3))}, "train_images: not an array of this format"),
    ({"test_lengths": None}, "test_lengths: missing, and the file has train_lengths. If all steps are real, save num"),
    ({"train_lengths": None}, "train_lengths: missing, and the file has test_lengths. If all steps are real, save num"),
    (
        {"validation_sequences": np.ones((2, 7, 3)), "validation_labels": np.arange(2)},
        "validation_lengths: missing, and the file has train_lengths. If all steps are real, save numpy.full(2, 7)",
    ),
    ({"test_mask": np.ones((6, 7))}, "not an array of this format. Save the number of real steps of each sequence, w"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_wrong_npz_files_of_sequences_are_refused(changed, message, tmp_path):
    with pytest.raises(DataError) as error:
        load(write_npz(tmp_path / "a.npz", **changed), seed=0)
    assert message in str(error.value)


def test_what_is_behind_the_lengths_does_not_count(tmp_path):
    lengths = np.arange(12) % 7 + 1
    sequences = np.ones((12, 7, 3))
    sequences[np.arange(7) >= lengths[:, None]] = np.nan
    images = write_npz(tmp_path / "a.npz", train_sequences=sequences).reader().read().train_images[:, 0]
    assert np.array_equal(images.sum((1, 2)), 3 * lengths)
    sequences[4, 2] = np.inf
    with pytest.raises(DataError, match=r"train_sequences: 3 numbers not finite.*the first at index \(4, 2, 0\)"):
        load(write_npz(tmp_path / "b.npz", train_sequences=sequences), seed=0)


def test_wrong_lengths_are_found_without_reading_the_sequences(tmp_path):
    wrong = write_npz(tmp_path / "a.npz", train_lengths=np.arange(12), test_sequences=np.full((6, 7, 3), np.nan))
    with pytest.raises(DataError, match="train_lengths: 5 lengths outside"):
        describe(wrong)
    with pytest.raises(DataError, match=r"(?s)train_lengths: 5 lengths outside.*test_sequences: 126 numbers not fin"):
        load(wrong, seed=0)


def test_lengths_of_images_are_refused(tmp_path):
    parts = {"train": 12, "test": 6}
    images = {f"{part}_images": np.zeros((count, 4, 4), np.uint8) for part, count in parts.items()}
    settings = write_npz(tmp_path / "a.npz", train_sequences=None, test_sequences=None, **images)
    with pytest.raises(DataError, match=r"train_lengths: not an array .* Lengths are of sequences: train_sequences"):
        describe(settings)


def test_sequences_are_not_augmented_or_resized(tmp_path):
    for options in ({"augment": {"mirror": True}}, {"image_size": 8}, {"affine": {}}, {"overlap": 2}):
        (name,) = options
        with pytest.raises(ArgumentError, match=f"data.{name} changes images; data set 'patterns' has sequences"):
            load(patterns(**options), seed=0)
    with pytest.raises(ArgumentError, match=r"data.image_size and data.overlap change images"):
        describe(patterns(image_size=8, overlap=2))
    with pytest.raises(ArgumentError, match="has no validation part"):
        load(patterns(validation="own"), seed=0)


TABLE = "width,kind,height\n1,b,2.5\n-3e2,a, 4\n5,b,6\n7,a,8\n"


def write_csv(tmp_path, train=TABLE, test=TABLE, **arguments):
    (tmp_path / "train.csv").write_text(train, encoding="utf-8")
    (tmp_path / "test.csv").write_text(test, encoding="utf-8")
    paths = {"path": str(tmp_path / "train.csv"), "test_path": str(tmp_path / "test.csv")}
    return DataSettings(dataset="csv", **paths, **{"label": "kind", "validation": 0.25, **arguments})


def test_csv_files_have_a_sample_in_each_line(tmp_path):
    settings = write_csv(tmp_path)
    info = describe(settings)
    assert (info.input_shape, info.class_names, info.train_images) == ((2,), ("a", "b"), 4)
    arrays = settings.reader().read()
    assert arrays.train_images[:, 0, 0].tolist() == [[1, 2.5], [-300, 4], [5, 6], [7, 8]]
    assert arrays.train_labels.tolist() == [1, 0, 1, 0]
    samples, labels = load(settings, seed=0).test.batch(0)
    assert (tuple(samples.shape), labels.tolist()) == ((4, 2), [1, 0, 1, 0])
    one = write_csv(tmp_path, features=["height"])
    assert one.reader().read().train_images[:, 0, 0].tolist() == [[2.5], [4], [6], [8]]


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    table = "x;label\n1;10\n2;9\n\n3;10\n4;9\n"
    settings = write_csv(tmp_path, table, table, label="label", delimiter=";")
    assert describe(settings).class_names == ("9", "10")


def rows(*lines):
    return "".join(f"{line}\n" for line in lines)


WRONG_TABLES = [
    ("x,kind\n1,a\n,b\n", "train.csv:3: column 'x': the number is missing"),
    ("x,kind\n1,a\n2,b\nnine,b\n", "train.csv:4: column 'x': 'nine' is not a number"),
    ("x,kind\n1,a\n2,b\nnan,b\n", "train.csv:4: column 'x': nan is not finite in float32"),
    ("x,kind\n1,a\n1e60,b\n", "train.csv:3: column 'x': 1e60 is not finite in float32"),
    ("x,kind\n1,a\n1_000,b\n", "train.csv:3: column 'x': '1_000' is not a number"),
    ("x,kind\n1,a\n2\n", "train.csv:3: has 1 cell; line 1 names 2 columns"),
    ("x,kind\n1,a\n2,b,\n", "train.csv:3: has 3 cells; line 1 names 2 columns. Cells with ',' in them need quotes"),
    ("x,kind\n1,a,\n2,b,\n", "train.csv:2: has 3 cells; line 1 names 2 columns (all lines below are wrong too)"),
    ("x,kind\n1,\n2,\n", "train.csv:2: column 'kind': the class is missing (all lines below are wrong too)"),
    ('x,kind\n1,"a\nb"\ntwo,c\n', "train.csv:4: column 'x': 'two' is not a number"),
    ('x,kind\n1,a\ntwo,"b\nc"\n3,a\n', "train.csv:3: column 'x': 'two' is not a number"),
    ("x,label\n1,a\n2,b\n", "train.csv:1: no column is called 'kind' (data.label). Allowed: label, x"),
    ("x,kind\n1,a\n2, \n", "train.csv:3: column 'kind': the class is missing"),
    ("x,sort\n1,a\n2,b\n", "train.csv:1: no column is called 'kind' (data.label)"),
    ("x,kind\n1,a\n2,a\n", "all samples are of class 'a'"),
    ("x,kind\n", "has no samples"),
    (",x,kind\n0,1,a\n", "train.csv:1: column 1 has no name. Save the table without an index, or list data.features"),
    ("x,x,kind\n1,1,a\n", "train.csv:1: column 'x' is there 2 times"),
    ("kind\na\nb\n", "train.csv:1: there is no column but that of the classes"),
    ('x,kind\n1,a\n2,"b\n3,c\n', "train.csv:3: the sample that begins here cannot be read: unexpected end of data"),
    ('x,kind\n1,a\n2,"b"c\n', "train.csv:3: the sample that begins here cannot be read: ',' expected after '\"'"),
    ("x;kind\n1;a\n", "train.csv:1: cells seem to be separated by ';', not by ',': set data.delimiter: \";\""),
    ("x\tkind\n1\ta\n", 'set data.delimiter: "\\t"'),
    ('"x";"kind"\n1;a\n', "train.csv:1: cells seem to be separated by ';'"),
]


@pytest.mark.parametrize(("table", "message"), WRONG_TABLES)
def test_wrong_tables_are_refused_by_line_and_column(table, message, tmp_path):
    with pytest.raises(DataError) as error:
        load(write_csv(tmp_path, table, "x,kind\n1,a\n"), seed=0)
    assert message in str(error.value)


def csv_error(tmp_path, *tables, **arguments):
    """What is wrong with a data set, which its description says too."""
    settings = write_csv(tmp_path, *tables, **arguments)
    with pytest.raises(DataError) as described:
        describe(settings)
    with pytest.raises(DataError) as loaded:
        load(settings, seed=0)
    assert str(described.value) == str(loaded.value)
    return str(loaded.value).replace(f"{tmp_path}{os.sep}", "")


def test_columns_of_text_are_one_problem(tmp_path):
    table = rows("name,kind,x,y", *(f"bob {number},{'ab'[number % 2]},{number},2" for number in range(60)))
    assert csv_error(tmp_path, table, table).splitlines() == [
        "the tables cannot be used as a data set:",
        "  train.csv:2: column 'name': 'bob 0' is not a number (all lines below are wrong too)",
        "  test.csv:2: column 'name': 'bob 0' is not a number (all lines below are wrong too)",
        '  To leave out columns that are not numbers, list the others: data.features: ["x", "y"]',
    ]
    assert describe(write_csv(tmp_path, table, table, features=["x", "y"])).input_shape == (2,)
    assert "leave such columns out of data.features" in csv_error(tmp_path, table, table, features=["x", "name"])


def test_numbers_with_a_decimal_comma(tmp_path):
    table = rows("x;kind", "1,5;a", "2,5;b")
    message = csv_error(tmp_path, table, table, delimiter=";")
    assert "train.csv:2: column 'x': '1,5' is not a number" in message
    assert message.endswith("Numbers have a decimal point, not a comma")
    assert "data.features" not in message


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r", "\0", "e", "7", ".", "-", "", ";;"])
def test_impossible_delimiters(delimiter, tmp_path):
    assert csv_error(tmp_path, delimiter=delimiter).startswith("data.delimiter must be one character")


def test_impossible_features(tmp_path):
    repeated = csv_error(tmp_path, features=["width", "height", "width"])
    assert repeated == "data.features names column 'width' twice; name each column once"
    for features in ([], ["width", "kind"]):
        assert "data.features must name at least one column, and not" in csv_error(tmp_path, features=features)


def test_what_is_not_utf_8_is_named_by_its_line(tmp_path):
    settings = write_csv(tmp_path)
    (tmp_path / "train.csv").write_bytes("x,kind\n1,a\n2,é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train.csv:3: byte 0xe9 is not UTF-8. Save the file as CSV in UTF-8"):
        describe(settings)


def test_a_label_that_nobody_named(tmp_path):
    assert csv_error(tmp_path, label="label") == (
        "train.csv:1: no column is called 'label' (the default of data.label, the column of the classes). Allowed: "
        "height, kind, width."
    )


def test_columns_that_are_not_read_may_be_anything(tmp_path):
    table = ",,note,note,x,kind\n0,0,some,text,1,a\n1,1,more,text,2,b\n"
    assert describe(write_csv(tmp_path, table, table, features=["x"])).input_shape == (1,)


def test_test_tables_fit_those_of_the_training(tmp_path):
    unknown = csv_error(tmp_path, TABLE, "width,height,kind\n1,2,d\n1,2,a\n1,2,c\n1,2,d\n")
    assert unknown.splitlines()[1:] == [
        "  test.csv:2: column 'kind': no training sample is of class 'd'",
        "  test.csv:4: column 'kind': no training sample is of class 'c'",
        "  The classes of train.csv are a, b",
    ]
    lacking = csv_error(tmp_path, TABLE, "width,kind\n1,a\n")
    assert lacking.startswith("test.csv:1: no column is called 'height' (a column of the training file). Allowed: kind")
    lacking = csv_error(tmp_path, features=["heigth"])
    assert lacking == "train.csv:1: no column is called 'heigth' (data.features). Did you mean 'height'?"


def test_what_is_wrong_with_both_tables_is_said_at_once(tmp_path):
    message = csv_error(tmp_path, TABLE.replace("2.5", "?"), TABLE.replace(",a", ",", 1))
    assert "train.csv:2: column 'height': '?' is not a number" in message
    assert "test.csv:3: column 'kind': the class is missing" in message
    with pytest.raises(EncapkerasError, match="there is no such file"):
        load(DataSettings(dataset="csv", path=str(tmp_path / "none.csv"), test_path=str(tmp_path / "none.csv")), seed=0)


def table_spec(settings, **model):
    return {
        "spec": "encapkeras/1",
        "name": "table",
        "data": settings.model_dump(exclude_none=True),
        "model": {
            "inputs": {"row": ["$channels"]},
            "nodes": {"scores": {"layer": "keras.Dense", "inputs": "row", "units": "$classes"}},
            "outputs": {"classes": "scores"},
            **model,
        },
        "losses": {"classes": {"loss": "cross_entropy"}},
        "train": {"epochs": 1},
    }


def test_a_network_of_vectors_trains(tmp_path):
    results = train(load_spec(table_spec(write_csv(tmp_path))), tmp_path / "run", verbose=0)
    assert 0 <= results["test_accuracy"] <= 1


def test_inputs_of_what_is_no_image_have_no_default(tmp_path):
    nodes = {"scores": {"layer": "keras.Dense", "inputs": "image", "units": "$classes"}}
    spec = {**table_spec(write_csv(tmp_path)), "model": {"nodes": nodes, "outputs": {"classes": "scores"}}}
    with pytest.raises(SpecError, match=r"has vectors, so the model needs 'inputs', .* {vector: \[\$channels\]}"):
        check_spec(spec)
    spec["data"] = {"dataset": "patterns", "sequences": 100}
    with pytest.raises(SpecError, match=r"has sequences, so .* for example {sequence: \[\$width, \$channels\]}"):
        load_spec(spec)


def test_inputs_that_do_not_fit_the_data_set_are_a_warning(tmp_path):
    settings = write_csv(tmp_path, batch_size=2, validation=0)
    assert not check_spec(table_spec(settings)).warnings
    (warning,) = check_spec(table_spec(settings, inputs={"row": [3]})).warnings
    assert warning.path == "model.inputs.row"
    assert "takes (3,), and the vectors of the data set are (2,): 'encapkeras train' refuses that" in warning.message


def test_a_spec_names_the_file_that_is_wrong(tmp_path):
    spec = table_spec(write_csv(tmp_path, test=TABLE.replace("2.5", "?")))
    with pytest.raises(SpecError) as error:
        check_spec(spec)
    (problem,) = error.value.problems
    assert problem.path == "data.test_path"
    assert "test.csv:2: column 'height': '?' is not a number" in problem.message


def test_networks_of_images_do_not_take_sequences(tmp_path):
    spec = load_spec("sequence_gru", ["data.sequences=100", "model.inputs.sequence=[$height, $width, $channels]"])
    with pytest.raises(EncapkerasError):
        build_model(spec)
    spec = load_spec("sequence_average", ["data.sequences=100", "model.inputs.sequence=[$width, 7]"])
    with pytest.raises(EncapkerasError, match=r"\(20, 7\); the sequences of the data set are \(20, 6\)"):
        train(spec, tmp_path / "run", verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "most"), [("average", 0, 0.6), ("capsules", 0.95, 1), ("gru", 0.95, 1)])
def test_the_order_of_the_steps_decides(name, least, most, tmp_path):
    results = train(load_spec(f"sequence_{name}"), tmp_path / "run", verbose=0)
    assert least <= results["test_accuracy"] <= most


def test_starter_specs_are_for_images(tmp_path, capsys):
    assert main(["new", str(tmp_path / "a.yaml"), "--dataset", "patterns"]) == 2
    assert "data set 'patterns' has sequences. Begin with a copy of sequence_capsules" in capsys.readouterr().err


def test_csv_cells_may_hold_any_characters_but_ends_of_lines(tmp_path):
    table = "x,kind\n1,a\u2028b\n2,c\n3,c\n4,a\u2028b\n"
    assert load(write_csv(tmp_path, table, table), seed=0).info.class_names == ("a\u2028b", "c")
