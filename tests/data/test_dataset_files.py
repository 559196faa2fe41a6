"""Files of the genuine formats, read through the public entry; and what a damaged one says."""

import contextlib
import dataclasses
import gzip
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.dataset_files import (
    NORB_TOYS,
    affnist_structure,
    as_cifar_rows,
    cycling_labels,
    idx_bytes,
    norb_bytes,
    norb_info,
    python2_pickle,
    random_images,
    write_affnist_files,
    write_cifar_files,
    write_idx_files,
    write_norb_files,
    write_svhn_files,
)

from encapkeras.data import DATASETS, DataSettings, describe, load
from encapkeras.errors import DataError
from encapkeras.validation import Checker

IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def read(name, root):
    return DATASETS[name].target(root=str(root)).read()


def error_of(name, root):
    with pytest.raises(DataError) as caught:
        read(name, root)
    return str(caught.value)


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("subfolder", ["torchvision", ""])
@pytest.mark.parametrize("name", IDX)
def test_idx_files(tmp_path, name, subfolder, gzipped):
    written = write_idx_files(tmp_path / (f"{IDX[name]}/raw" if subfolder else ""), gzipped=gzipped)
    arrays = read(name, tmp_path)
    assert np.array_equal(arrays.train_images[..., 0], written["train-images-idx3-ubyte"])
    assert np.array_equal(arrays.train_labels, written["train-labels-idx1-ubyte"])
    assert np.array_equal(arrays.test_images[..., 0], written["t10k-images-idx3-ubyte"])
    assert np.array_equal(arrays.test_labels, written["t10k-labels-idx1-ubyte"])


def test_cifar10_files(tmp_path):
    written = write_cifar_files(tmp_path / "cifar-10-batches-py", classes=10, per_file=12)
    arrays = read("cifar10", tmp_path)
    parts = [written[f"data_batch_{number}"] for number in range(1, 6)]
    assert np.array_equal(arrays.train_images, np.concatenate([images for images, _ in parts]))
    assert np.array_equal(arrays.train_labels, np.concatenate([labels for _, labels in parts]))
    assert np.array_equal(arrays.test_images, written["test_batch"][0])
    assert arrays.test_labels.dtype == np.int64


def test_cifar100_files(tmp_path):
    written = write_cifar_files(tmp_path, classes=100, per_file=120)
    arrays = read("cifar100", tmp_path)
    assert np.array_equal(arrays.train_images, written["train"][0])
    assert np.array_equal(arrays.train_labels, written["train"][1])
    assert np.array_equal(arrays.test_labels, written["test"][1])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_repacked_cifar_files_of_today(tmp_path, protocol):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    images = random_images(10, 32, 32, 3, seed=77)
    content = {"data": as_cifar_rows(images), "labels": list(range(10))}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    assert np.array_equal(read("cifar10", tmp_path).test_images, images)


def test_svhn_files(tmp_path):
    written = write_svhn_files(tmp_path)
    arrays = read("svhn", tmp_path)
    assert np.array_equal(arrays.train_images, written["train"][0])
    assert np.array_equal(arrays.train_labels, written["train"][1])
    assert np.array_equal(arrays.test_images, written["test"][0])
    assert arrays.test_labels.min() == 0


@pytest.mark.parametrize("subfolder", ["affNIST", ""])
@pytest.mark.parametrize("training_files", [0, 1, 3])
def test_affnist_files(tmp_path, subfolder, training_files):
    test, *training = write_affnist_files(tmp_path / subfolder, training_files=training_files).values()
    arrays = DATASETS["affnist"].target(root=str(tmp_path), training_files=training_files).read()
    assert np.array_equal(arrays.test_images[..., 0], test[0])
    assert np.array_equal(arrays.test_labels, test[1])
    assert np.array_equal(arrays.train_images[..., 0], np.concatenate([images for images, _ in training]))
    assert np.array_equal(arrays.train_labels, np.concatenate([labels for _, labels in training]))
    info = describe(DataSettings(dataset="affnist", training_files=training_files))
    assert info.train_images == 60_000 * max(training_files, 1)
    splits = load(DataSettings(dataset="affnist", root=str(tmp_path), training_files=training_files), seed=0)
    assert splits.train.batch(0)[0].shape[1:] == (40, 40, 1) == (info.height, info.width, info.channels)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"label_int": np.arange(10.0)[np.newaxis]}, ""),  # as MATLAB's own numbers
        ({"label_int": np.arange(10)[:, np.newaxis]}, ""),
        ({"image": None}, "does not hold a structure affNISTdata with the fields image and label_int"),
        ({"label_int": None}, "does not hold a structure affNISTdata with the fields image and label_int"),
        ({"image": np.zeros((10, 1600), np.uint8)}, "image is uint8 (10, 1600); it must be uint8 (1600, N)"),
        ({"image": np.zeros((40, 40, 10), np.uint8)}, "image is uint8 (40, 40, 10)"),
        ({"image": np.zeros((784, 10), np.uint8)}, "image is uint8 (784, 10)"),
        ({"image": np.zeros((1600, 10))}, "image is float64 (1600, 10)"),
        ({"image": {"a": 1}}, "something else than arrays of real numbers"),
        ({"label_int": np.zeros((1, 9))}, "label_int is float64 (1, 9); it must be whole numbers (1, 10)"),
        ({"label_int": np.full((1, 10), 0.5)}, "label_int is float64 (1, 10); it must be whole numbers"),
        ({"label_int": np.full((1, 10), np.inf)}, "label_int is float64 (1, 10); it must be whole numbers"),
        ({"label_int": np.full((1, 10), 10)}, "test labels: 10 labels outside 0..9, the first is 10"),
    ],
)
def test_an_affnist_file_with_other_fields(tmp_path, changes, text, compressed):
    [images, labels], _ = write_affnist_files(tmp_path).values()
    fields = {name: value for name, value in (affnist_structure(images, labels) | changes).items() if value is not None}
    path = tmp_path / "transformed" / "test.mat"
    scipy.io.savemat(path, {"other": 1.0, "affNISTdata": fields}, do_compression=compressed, long_field_names=True)
    if not text:
        assert read("affnist", tmp_path).test_labels.tolist() == list(range(10))
        return
    message = error_of("affnist", tmp_path)
    assert text in message
    assert str(path) in message or "test labels" in message


@pytest.mark.parametrize("content", [{"affNISTdata": np.zeros((1600, 10))}, {"image": np.zeros((1600, 10))}])
def test_an_affnist_file_without_the_structure(tmp_path, content):
    write_affnist_files(tmp_path)
    scipy.io.savemat(tmp_path / "transformed" / "test.mat", content)
    assert "structure" in error_of("affnist", tmp_path)


def test_an_affnist_file_with_several_structures(tmp_path):
    [images, labels], _ = write_affnist_files(tmp_path).values()
    records = np.zeros((1, 2), [("image", object), ("label_int", object)])
    for place in (0, 1):
        records[0, place] = (images.reshape(10, -1).T, labels[np.newaxis])
    scipy.io.savemat(tmp_path / "transformed" / "test.mat", {"affNISTdata": records})
    assert "something else than one structure with names of fields" in error_of("affnist", tmp_path)


@pytest.mark.parametrize("kept", [0, 50, 130, 300, 2000, -1])
def test_a_truncated_affnist_file(tmp_path, kept):
    write_affnist_files(tmp_path)
    path = tmp_path / "just_centered" / "training_and_validation.mat"
    path.write_bytes(path.read_bytes()[:kept])
    assert error_of("affnist", tmp_path).startswith(f"{path} cannot be read as a file of data set ")


@given(place=st.integers(128, 1200), value=st.integers(0, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_affnist_file_with_a_wrong_byte_is_read_or_named(tmp_path, place, value):
    path = tmp_path / "transformed" / "test.mat"
    if not path.exists():
        write_affnist_files(tmp_path)
    images, labels = random_images(10, 40, 40), cycling_labels(10)
    fields = {"label_int": labels[np.newaxis], "image": images.reshape(10, -1).T}
    scipy.io.savemat(path, {"affNISTdata": fields})
    data = bytearray(path.read_bytes())
    data[place] = value
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert len(read("affnist", tmp_path).test_labels) == 10


def test_affnist_has_to_be_got_by_hand(tmp_path):
    message = error_of("affnist", tmp_path)
    assert "'affnist' are not on this machine, and there is no download for them" in message
    assert "just_centered/training_and_validation.mat" in message
    assert "https://www.cs.toronto.edu/~tijmen/affNIST/32x/" in message


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_files_become_batches_that_can_be_trained_on(tmp_path, name):
    {
        "mnist": lambda: write_idx_files(tmp_path),
        "fashion_mnist": lambda: write_idx_files(tmp_path),
        "cifar10": lambda: write_cifar_files(tmp_path, classes=10, per_file=10),
        "cifar100": lambda: write_cifar_files(tmp_path, classes=100, per_file=100),
        "svhn": lambda: write_svhn_files(tmp_path),
    }[name]()
    splits = load(DataSettings(dataset=name, root=str(tmp_path), batch_size=4), seed=0)
    for part in (splits.train, splits.validation, splits.test):
        images, labels = part.batch(0)
        assert images.shape[1:] == (32, 32, splits.info.channels)
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("kept", [0, 3, 9, 500, -1])
def test_a_truncated_idx_file(tmp_path, gzipped, kept):
    write_idx_files(tmp_path, gzipped=gzipped)
    [path] = tmp_path.glob("train-images*")
    path.write_bytes(path.read_bytes()[:kept])
    message = error_of("mnist", tmp_path)
    assert message.startswith(f"{path} cannot be read as a file of data set ")
    assert "delete it" in message


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("train-images-idx3-ubyte", b"hello, world", "does not start like an IDX file of unsigned bytes with 3 axes"),
        ("train-labels-idx1-ubyte", idx_bytes(random_images(20, 2)), "with 1 axes"),
        ("train-images-idx3-ubyte", idx_bytes(random_images(20, 32, 32)), "32x32 pixels instead of 28x28"),
        ("train-labels-idx1-ubyte", idx_bytes(cycling_labels(19)), "19 labels for 20 images"),
        (
            "t10k-labels-idx1-ubyte",
            idx_bytes(cycling_labels(10)) + b"x",
            "has 19 bytes, but its header (shape (10,)) requires",
        ),
    ],
)
def test_an_idx_file_with_something_else_in_it(tmp_path, file, content, text):
    write_idx_files(tmp_path, gzipped=False)
    (tmp_path / file).write_bytes(content)
    message = error_of("mnist", tmp_path)
    assert f"{tmp_path / file} cannot be read as a file of data set" in message
    assert text in message


def test_a_compressed_file_that_was_changed_on_its_way(tmp_path):
    write_idx_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    assert f"{path} cannot be read as a file of data set" in error_of("mnist", tmp_path)


def test_impossible_labels_in_files(tmp_path):
    write_idx_files(tmp_path, gzipped=False)
    labels = cycling_labels(20)
    labels[[3, 7]] = 10, 200
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    message = error_of("mnist", tmp_path)
    assert "data set 'mnist'" in message
    assert "training labels: 2 labels outside 0..9, the first is 10 at index 3" in message


def test_a_class_without_training_images_in_files(tmp_path):
    write_idx_files(tmp_path, gzipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(cycling_labels(20, 9)))
    assert "training labels: 1 of 10 classes without any image: 9" in error_of("mnist", tmp_path)


def test_files_without_any_image(tmp_path):
    write_idx_files(tmp_path, test=0)
    assert "test labels: there are none" in error_of("mnist", tmp_path)


@pytest.mark.parametrize(
    ("asked", "labels", "there"),
    [
        ("mnist", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "fashion_mnist"),
        ("fashion_mnist", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "mnist"),
    ],
)
def test_one_data_set_does_not_pass_for_the_other(tmp_path, asked, labels, there):
    write_idx_files(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.array([*labels, *range(10)]))))
    assert error_of(asked, tmp_path) == f"{tmp_path} holds the files of '{there}', not of '{asked}'"


@pytest.mark.parametrize("kept", [0, 1, 40, 2000, -1])
def test_a_truncated_cifar_file(tmp_path, kept):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    path = tmp_path / "data_batch_3"
    path.write_bytes(path.read_bytes()[:kept])
    assert error_of("cifar10", tmp_path).startswith(f"{path} cannot be read as a file of data set ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"data": np.zeros((3, 3072), np.uint8)}, "not a pickled map with the keys 'data' and 'labels'"),
        ([1, 2], "not a pickled map"),
        ({"data": np.zeros((3, 3071), np.uint8), "labels": [0, 1, 2]}, "(N, 3072)"),
        ({"data": np.zeros((3, 3072)), "labels": [0, 1, 2]}, "not an array of unsigned bytes"),
        ({"data": "no array", "labels": [0, 1, 2]}, "not an array of unsigned bytes"),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}, "'labels' is not a list of 3 integers"),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2.0]}, "'labels' is not a list of 3 integers"),
    ],
)
def test_a_cifar_file_with_something_else_in_it(tmp_path, content, text):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content))
    message = error_of("cifar10", tmp_path)
    assert f"{tmp_path / 'test_batch'} cannot be read as a file of data set" in message
    assert text in message


class Attack:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_pickle_cannot_run_code(tmp_path, capsys):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Attack(), "labels": []}))
    assert "asks for builtins.print" in error_of("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


def test_the_files_of_the_tests_are_those_of_python_2():
    content = pickle.loads(python2_pickle({"labels": [3, 300], "name": "abc"}), encoding="latin1")  # noqa: S301
    assert content == {"labels": [3, 300], "name": "abc"}


@pytest.mark.parametrize("kept", [0, 50, 130, 300, 2000, -1])
def test_a_truncated_svhn_file(tmp_path, kept):
    write_svhn_files(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:kept])
    assert error_of("svhn", tmp_path).startswith(f"{path} cannot be read as a file of data set ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "it does not hold both arrays X and y"),
        ({"X": np.zeros((32, 32, 2), np.uint8), "y": [[1], [2]]}, "X is uint8 (32, 32, 2); it must be uint8"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, "X is float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, "y is int64 (1, 1); it must be integers (2, 1)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1.5], [2.0]]}, "y is float64"),
    ],
)
def test_an_svhn_file_with_something_else_in_it(tmp_path, content, text):
    write_svhn_files(tmp_path)
    scipy.io.savemat(tmp_path / "train_32x32.mat", content)
    message = error_of("svhn", tmp_path)
    assert f"{tmp_path / 'train_32x32.mat'} cannot be read as a file of data set" in message
    assert text in message


@pytest.mark.parametrize("gzipped", [True, False])
def test_small_norb_files(tmp_path, gzipped):
    written = write_norb_files(tmp_path, gzipped=gzipped)
    arrays = read("small_norb", tmp_path)
    assert np.array_equal(arrays.train_images[..., 0], written["training"][0][:, 0])
    assert np.array_equal(arrays.test_images[..., 0], written["testing"][0][:, 0])
    assert np.array_equal(arrays.train_labels, written["training"][1])
    both = DATASETS["small_norb"].target(root=str(tmp_path), channels=2).read()
    assert np.array_equal(both.train_images, written["training"][0].transpose(0, 2, 3, 1))


def test_small_norb_is_resized_and_cut_as_the_papers_do(tmp_path):
    write_norb_files(tmp_path)
    given = {"root": str(tmp_path), "image_size": 32, "augment": {"resize": 48, "crop": True}}
    splits = load(Checker(DataSettings).convert({"dataset": "small_norb", "channels": 2, **given}), seed=0)
    assert splits.train.batch(0)[0].shape == (9, 32, 32, 2)
    assert splits.info.class_names == ("animal", "human", "airplane", "truck", "car")


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("kept", [0, 7, 17, 500, -1])
def test_a_truncated_norb_file(tmp_path, gzipped, kept):
    write_norb_files(tmp_path, count=5, gzipped=gzipped)
    [path] = tmp_path.glob("*training-dat*")
    path.write_bytes(path.read_bytes()[:kept])
    message = error_of("small_norb", tmp_path)
    assert message.startswith(f"{path} cannot be read as a file of data set ")
    assert message.endswith("Replace it with an intact copy.")


@pytest.mark.parametrize(
    ("content", "array", "text"),
    [
        ("dat", random_images(10, 2, 95, 96), "holds uint8 (10, 2, 95, 96) instead of uint8 (N, 2, 96, 96)"),
        ("dat", np.zeros((3, 2), np.int32), "holds int32 (3, 2)"),
        ("cat", np.zeros(9, np.int32), "holds int32 (9,) instead of int32 (10,)"),
        ("cat", np.zeros(10, np.uint8), "holds uint8 (10,)"),
        ("cat", b"\0" * 40, "does not start like a file of bytes or 32-bit integers in the format of NORB"),
    ],
)
def test_a_norb_file_with_something_else_in_it(tmp_path, content, array, text):
    write_norb_files(tmp_path)
    [path] = tmp_path.glob(f"*testing-{content}.mat")
    path.write_bytes(array if isinstance(array, bytes) else norb_bytes(array))
    message = error_of("small_norb", tmp_path)
    assert f"{path} cannot be read as a file of data set" in message
    assert text in message


def test_impossible_categories_of_small_norb(tmp_path):
    write_norb_files(tmp_path)
    [path] = tmp_path.glob("*training-cat.mat")
    path.write_bytes(norb_bytes(np.array([0, 1, 2, 3, 4, 5, 0, 0, 0, 0], np.int32)))
    assert "training labels: 1 label outside 0..4, the first is 5 at index 5" in error_of("small_norb", tmp_path)


AZIMUTHS, ELEVATIONS = (0, 2, 4, 30, 32, 34), (0, 1, 2)


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize(
    ("split", "column", "familiar"),
    [
        ("novel_azimuths", 2, AZIMUTHS),
        ("familiar_azimuths", 2, AZIMUTHS),
        ("novel_elevations", 1, ELEVATIONS),
        ("familiar_elevations", 1, ELEVATIONS),
    ],
)
def test_small_norb_by_viewpoint(tmp_path, split, column, familiar, gzipped):
    written = write_norb_files(tmp_path, count=60, gzipped=gzipped)
    arrays = DATASETS["small_norb"].target(root=str(tmp_path), split=split).read()
    for part, images, labels in [
        ("training", arrays.train_images, arrays.train_labels),
        ("testing", arrays.test_images, arrays.test_labels),
    ]:
        chosen = np.isin(norb_info(60, NORB_TOYS[part])[:, column], familiar)
        if part == "testing" and split.startswith("novel"):
            chosen = ~chosen
        assert 0 < chosen.sum() < 60
        assert np.array_equal(images[..., 0], written[part][0][chosen, 0])
        assert np.array_equal(labels, written[part][1][chosen])
    assert describe(DataSettings(dataset="small_norb", split=split)).train_images == 8_100


def test_small_norb_needs_its_info_files_only_for_viewpoints(tmp_path):
    write_norb_files(tmp_path)
    for path in tmp_path.glob("*-info.mat"):
        path.unlink()
    assert len(read("small_norb", tmp_path).train_labels) == 10
    with pytest.raises(DataError, match=r"smallnorb-5x46789x9x18x6x2x96x96-training-info\.mat"):
        DATASETS["small_norb"].target(root=str(tmp_path), split="novel_azimuths").read()


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        (0, 10, "the instance of image 3 is 10; it must be 0..9"),
        (1, -1, "the elevation of image 3 is -1; it must be 0..8"),
        (2, 7, "the azimuth of image 3 is 7; it must be 0..34, even"),
        (3, 6, "the lighting of image 3 is 6; it must be 0..5"),
        (None, None, "holds int32 (10, 3) instead of int32 (10, 4)"),
    ],
)
def test_impossible_viewpoints_of_small_norb(tmp_path, column, value, text):
    write_norb_files(tmp_path)
    info = norb_info(10, NORB_TOYS["testing"])
    if column is None:
        info = np.ascontiguousarray(info[:, :3])
    else:
        info[3, column] = value
    [path] = tmp_path.glob("*testing-info.mat")
    path.write_bytes(norb_bytes(info))
    with pytest.raises(DataError) as caught:
        DATASETS["small_norb"].target(root=str(tmp_path), split="familiar_elevations").read()
    assert f"{path} cannot be read as a file of data set" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("split", ["instances", "familiar_azimuths"])
def test_a_test_image_of_small_norb_that_is_a_training_image(tmp_path, split):
    written = write_norb_files(tmp_path, count=30)
    pairs = written["testing"][0].copy()
    pairs[20] = written["training"][0][2]  # azimuths 4 and 4
    [path] = tmp_path.glob("*testing-dat.mat")
    path.write_bytes(norb_bytes(pairs))
    with pytest.raises(DataError, match="1 test image among the training images: test image 20 is training image 2"):
        DATASETS["small_norb"].target(root=str(tmp_path), split=split).read()


def test_toys_of_small_norb_that_are_in_both_parts(tmp_path):
    write_norb_files(tmp_path, count=30)
    [path] = tmp_path.glob("*testing-info.mat")
    path.write_bytes(norb_bytes(norb_info(30, (0, 9, 1, 2, 3))))
    with pytest.raises(
        DataError, match="5 toys in both training and test images, the first is instance 9 of class animal"
    ):
        DATASETS["small_norb"].target(root=str(tmp_path), split="novel_elevations").read()


def test_small_norb_has_to_be_got_by_hand(tmp_path):
    message = error_of("small_norb", tmp_path)
    assert "'small_norb' are not on this machine, and there is no download for them" in message
    assert "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat" in message
    assert "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/" in message
    assert str(tmp_path) in message


def test_the_extra_images_of_svhn_are_training_images_too(tmp_path):
    written = write_svhn_files(tmp_path, extra=15)
    plain, more = (DATASETS["svhn"].target(root=str(tmp_path), extra=extra).read() for extra in (False, True))
    assert len(plain.train_labels) == 20
    assert np.array_equal(more.train_images, np.concatenate([written["train"][0], written["extra"][0]]))
    assert np.array_equal(more.train_labels, np.concatenate([written["train"][1], written["extra"][1]]))
    assert np.array_equal(more.test_images, plain.test_images)
    (tmp_path / "extra_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"extra_32x32\.mat"):
        DATASETS["svhn"].target(root=str(tmp_path), extra=True).read()
    assert describe(DataSettings(dataset="svhn", extra=True)).train_images == 604_388


@dataclasses.dataclass
class Uninitialized:
    """Asks for an array of whatever was in memory before."""

    function: Callable
    arguments: tuple

    def __reduce__(self):
        return self.function, self.arguments


RECONSTRUCT = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    "data",
    [
        Uninitialized(np.ndarray, ((1, 3072), "u1")),
        Uninitialized(RECONSTRUCT, (np.ndarray, (1, 3072), b"B")),
        Uninitialized(RECONSTRUCT, (np.ndarray, (10**9, 3072), b"B")),
    ],
)
def test_a_pickle_cannot_have_memory_that_it_does_not_fill(tmp_path, data):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": [0]}))
    assert "'data' is not an array of unsigned bytes" in error_of("cifar10", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # memo of 16 GiB
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",  # bytes of 4 EiB
        b"\x80\x02)" + b"\x85" * 200_000 + b"q\x00}h\x00K\x01s.",  # a key so deep that its hash ends Python
        b"\x80\x02cnumpy\ndtype\n(U\x02i8K\x00K\x00tR(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    ],
)
def test_pickles_that_harm_who_reads_them(tmp_path, content):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    (tmp_path / "test_batch").write_bytes(content)
    error_of("cifar10", tmp_path)
    assert np.dtype("i8") == np.dtype("<i8")  # the last of them would change it for the whole process


def test_cifar_files_with_arrays_by_columns(tmp_path):
    write_cifar_files(tmp_path, classes=10, per_file=10)
    images = random_images(10, 32, 32, 3, seed=77)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = {"data": np.asfortranarray(as_cifar_rows(images)), "labels": list(range(10))}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        assert np.array_equal(read("cifar10", tmp_path).test_images, images)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("changed", [128, 132, 144, 152, 160, 172, 176, 180, 187])
def test_svhn_files_of_damaged_numbers(tmp_path, compressed, changed):
    """SciPy crashes on some of them: a type that is none, sizes beyond the file, lengths that do not fit."""
    write_svhn_files(tmp_path)
    path = tmp_path / "test_32x32.mat"
    content = scipy.io.loadmat(path, variable_names=("X", "y"))
    scipy.io.savemat(path, {name: content[name] for name in ("X", "y")})
    data = bytearray(path.read_bytes())
    data[changed] ^= 0x7F
    if compressed:
        size = 8 + struct.unpack_from("<I", path.read_bytes(), 132)[0]
        packed = zlib.compress(data[128 : 128 + size])
        data[128 : 128 + size] = struct.pack("<II", 15, len(packed)) + packed
    path.write_bytes(data)
    error_of("svhn", tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_svhn_files_of_either_byte_order_and_without_compression(tmp_path, order):
    write_svhn_files(tmp_path)
    images, labels = random_images(2, 32, 32, 3, seed=9), np.array([[1], [10]])

    def element(kind, data):
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(name, number_class, kind, array):
        lengths = np.array(array.shape, f"{order}i4").tobytes()
        parts = [(6, struct.pack(f"{order}II", number_class, 0)), (5, lengths), (1, name), (kind, array.tobytes("F"))]
        return element(14, b"".join(element(*part) for part in parts))

    start = b"MATLAB 5.0".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")
    arrays = matrix(b"X", 9, 2, images.transpose(1, 2, 3, 0)) + matrix(b"y", 10, 3, labels.astype(f"{order}i2"))
    (tmp_path / "test_32x32.mat").write_bytes(start + arrays)
    found = read("svhn", tmp_path)
    assert np.array_equal(found.test_images, images)
    assert found.test_labels.tolist() == [1, 0]


@pytest.mark.parametrize("content", [{"X": np.array([[1], ["a"]], object), "y": [[1]]}, {"X": {"a": 1}, "y": [[1]]}])
def test_svhn_files_of_other_things_than_numbers(tmp_path, content):
    write_svhn_files(tmp_path)
    scipy.io.savemat(tmp_path / "test_32x32.mat", content)
    assert "something else than arrays of real numbers" in error_of("svhn", tmp_path)


def test_a_gzipped_file_is_not_unpacked_beyond_what_its_header_says(tmp_path):
    write_idx_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(random_images(20, 28, 28)) + bytes(2**26)))
    tracemalloc.start()
    message = error_of("mnist", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "but its header (shape (20, 28, 28)) requires 15696" in message


@pytest.mark.parametrize("start", [b"", struct.pack("<II", 14, 2**26)], ids=["elements", "elements of a matrix"])
def test_an_svhn_file_is_not_unpacked_beyond_what_images_can_be(tmp_path, start):
    write_svhn_files(tmp_path)
    packed = zlib.compress(start + bytes(2**26))
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    message = error_of("svhn", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "is more than 100 times as long" in message
    empty = bytes(2**21)  # elements of no type and no length
    path.write_bytes(b" " * 124 + b"\0\1IM" + struct.pack("<II", 14, len(empty)) + empty)
    tracemalloc.start()
    assert "does not start with flags, lengths and a name" in error_of("svhn", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_an_svhn_file_with_a_wrong_checksum(tmp_path):
    write_svhn_files(tmp_path)
    path = tmp_path / "test_32x32.mat"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "incorrect data check" in error_of("svhn", tmp_path)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_headers_of_sizes_that_no_file_has(tmp_path, name):
    write_idx_files(tmp_path)
    data = bytearray(gzip.decompress((tmp_path / name).read_bytes()))
    data[4:8] = b"\xff" * 4
    (tmp_path / name).write_bytes(gzip.compress(data))
    assert "but its header (shape (4294967295" in error_of("mnist", tmp_path)
