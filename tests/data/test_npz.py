"""The user's own arrays: everything that can be wrong is said at once, with file and array."""

import struct
import zipfile

import numpy as np
import pytest
from support.dataset_files import cycling_labels, random_images, write_npz

from encapkeras.data import DataSettings, describe, load
from encapkeras.errors import DataError


def settings_for(path):
    return DataSettings(dataset="npz", path=str(path))


def errors_of(path, *, also_described=True):
    with pytest.raises(DataError) as caught:
        load(settings_for(path), seed=0)
    if also_described:
        with pytest.raises(DataError) as described:
            describe(settings_for(path))
        assert str(described.value) == str(caught.value)
    first, *lines = str(caught.value).split("\n  ")
    assert str(path) in first
    return lines


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_bytes_of_every_shape(tmp_path, shape):
    train, test = random_images(12, *shape), random_images(6, *shape, seed=2)
    splits = load(settings_for(write_npz(tmp_path / "a.npz", train_images=train, test_images=test)), seed=0)
    channels = shape[2] if len(shape) == 3 else 1
    assert (splits.info.height, splits.info.width, splits.info.channels) == (6, 5, channels)
    assert np.array_equal(splits.test.images_as_uint8(), test.reshape(6, 6, 5, channels))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats(tmp_path, dtype):
    images = (random_images(12, 6, 5) / 255).astype(dtype)
    path = write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:6])
    assert np.array_equal(load(settings_for(path), seed=0).test.batch(0)[0][..., 0], images[:6].astype(np.float32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_labels_of_every_whole_type(tmp_path, dtype):
    path = write_npz(tmp_path / "a.npz", train_labels=cycling_labels(12, 3).astype(dtype))
    assert load(settings_for(path), seed=0).train.labels.bincount().sum() == 11


def test_class_names_may_be_more_telling_than_numbers(tmp_path):
    assert describe(settings_for(write_npz(tmp_path / "a.npz"))).class_names == ("0", "1", "2")
    named = write_npz(tmp_path / "b.npz", class_names=np.array(["ä", "b", "c"]))
    assert describe(settings_for(named)).class_names == ("ä", "b", "c")


def test_a_user_folder_is_expanded(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert describe(settings_for("~/a.npz")).classes == 3


def floats_with(*changes):
    images = np.full((12, 6, 5), 0.5, dtype=np.float32)
    for index, value in changes:
        images[index] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"train_images": floats_with(((3, 1, 2), np.nan), ((7, 0, 0), np.inf))},
            "train_images: 2 pixels not finite (NaN or infinite), the first at index (3, 1, 2)",
        ),
        (
            {"train_images": floats_with(((3, 1, 2), 200.0))},
            "train_images: float pixels must be in [0, 1], these range from 0.5 to 200; divide by 255, or save the "
            "images as uint8",
        ),
        (
            {"train_images": floats_with(((3, 1, 2), -1.0))},
            "train_images: float pixels must be in [0, 1], these range from -1 to 0.5",
        ),
    ],
)
def test_wrong_pixels(tmp_path, arrays, expected):
    path = write_npz(tmp_path / "a.npz", **arrays)
    assert errors_of(path, also_described=False) == [expected]
    assert describe(settings_for(path)).height == 6  # which reads no pixel


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"test_labels": None},
            "test_labels: missing; the file holds test_images, train_images, train_labels",
        ),
        ({"trian_images": np.zeros(3)}, "trian_images: not an array of this format. Did you mean 'train_images'?"),
        (
            {"train_labels": cycling_labels(12, 3).astype(float)},
            "train_labels: labels are float64; they must be integers, for example int64",
        ),
        (
            {"train_labels": np.eye(3, dtype=int)[cycling_labels(12, 3)]},
            "test_labels: has shape (6,); it must be (N, 3), a column for each label",
        ),
        ({"train_labels": cycling_labels(11, 3)}, "train_labels: has 11 entries, train_images has 12"),
        (
            {"train_labels": cycling_labels(12, 3) - 1, "test_labels": np.zeros(6, int)},
            "train_labels: 4 labels outside 0..1, the first is -1 at index 0",
        ),
        ({"test_labels": cycling_labels(6, 5)}, "test_labels: 2 labels outside 0..2, the first is 3 at index 3"),
        (
            {"class_names": np.array(["a", "b"]), "test_labels": np.zeros(6, int)},
            "train_labels: 4 labels outside 0..1, the first is 2 at index 2",
        ),
        (
            {"class_names": np.array(["a", "b", "c", "d"])},
            "train_labels: 1 of 4 classes without any image: 3",
        ),
        (
            {"train_labels": cycling_labels(12, 3) + 1},
            "train_labels: 1 of 4 classes without any image: 0; labels count from 0",
        ),
        (
            {"train_labels": np.where(np.arange(12) == 5, 10**12, cycling_labels(12, 3))},
            "train_labels: the largest label is 1000000000000, at index 5; there would be more classes than images",
        ),
        (
            {"train_labels": np.zeros(12, int), "test_labels": np.zeros(6, int)},
            "train_labels: all labels are 0; a network needs at least two classes",
        ),
        (
            {
                "class_names": np.array(["a"]),
                "train_labels": np.zeros(12, int),
                "test_labels": np.zeros(6, int),
            },
            "class_names: there is one name; a network needs at least two classes",
        ),
        (
            {"class_names": np.array(["cat", "dog", "cat"])},
            "class_names: 'cat' is given 2 times; class names must be unique",
        ),
        (
            {"class_names": np.array([1, 2, 3])},
            "class_names: is int64 of shape (3,); it must be strings, for example numpy.array(['cat', 'dog'])",
        ),
        (
            {"class_names": np.array(["a", "b", "c"], dtype=object)},
            "class_names: is object of shape (3,); it must be strings, for example numpy.array(['cat', 'dog'])",
        ),
        ({"train_images": np.zeros((12, 30), np.uint8)}, "train_images: has shape (12, 30); allowed are (N, H, W)"),
        ({"train_images": np.zeros((12, 6, 5), int)}, "train_images: pixels are int64; allowed are uint8, or floats"),
        ({"train_images": np.zeros((12, 6, 0), np.uint8)}, "train_images: is empty, its shape is (12, 6, 0)"),
        (
            {"test_images": random_images(6, 5, 6)},
            "test_images: images are (5, 6, 1) (H, W, C), those of train_images (6, 5, 1)",
        ),
        (
            {"test_images": random_images(6, 6, 5, 3)},
            "test_images: images are (6, 5, 3) (H, W, C), those of train_images (6, 5, 1)",
        ),
    ],
)
def test_wrong_arrays(tmp_path, arrays, expected):
    [line] = errors_of(write_npz(tmp_path / "a.npz", **arrays))
    assert line.startswith(expected)


def test_empty_parts(tmp_path):
    path = write_npz(tmp_path / "a.npz", test_images=random_images(0, 6, 5), test_labels=cycling_labels(0))
    assert errors_of(path) == ["test_images: is empty, its shape is (0, 6, 5)", "test_labels: is empty"]


def test_everything_wrong_is_said_at_once(tmp_path):
    path = write_npz(
        tmp_path / "a.npz",
        train_images=floats_with(((0, 0, 0), np.nan)),
        train_labels=cycling_labels(11, 3),
        test_images=floats_with(((0, 0, 0), 300.0)),
        test_labels=None,
    )
    lines = errors_of(path, also_described=False)
    assert [line.partition(":")[0] for line in lines] == ["test_labels", "train_labels", "train_images", "test_images"]


def test_an_archive_of_nothing(tmp_path):
    np.savez(tmp_path / "a.npz")
    assert len(errors_of(tmp_path / "a.npz")) == 4


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz cannot be read as a \.npz file"):
        describe(settings_for(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: there is no such file"):
        load(settings_for(tmp_path / "none.npz"), seed=0)


def test_damaged_bytes_inside_the_archive(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    data = path.read_bytes()
    pixels = random_images(12, 6, 5, seed=1).tobytes()
    path.write_bytes(data.replace(pixels, pixels[::-1]))
    with pytest.raises(
        DataError, match=r"a\.npz, array train_images, cannot be read as an array of NumPy's: Bad CRC-32"
    ):
        load(settings_for(path), seed=0)


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    path = write_npz(tmp_path / "a.npz", train_images=np.array([1, "x", None], dtype=object))
    assert "train_images: pixels are object; allowed are uint8" in errors_of(path)[0]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 8, 20)])
def test_channels_that_come_first_are_said(tmp_path, shape):
    path = write_npz(tmp_path / "a.npz", train_images=random_images(12, *shape), test_images=random_images(6, *shape))
    text = r"looks like \(N, C, H, W\), but channels come last: use images.transpose\(0, 2, 3, 1\)"
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.warns(UserWarning, match=text):
            call(settings_for(path))


@pytest.mark.parametrize("shape", [(3, 32, 3), (1, 32, 1), (3, 9), (4, 9, 9), (1, 9, 4)])
def test_images_of_few_rows_are_images(tmp_path, shape):
    path = write_npz(tmp_path / "a.npz", train_images=random_images(12, *shape), test_images=random_images(6, *shape))
    assert load(settings_for(path), seed=0).info.height == shape[0]


def member(shape="(12, 6, 5)", dtype="'|u1'", size=360, *, header=None, version=1):
    """An array in NumPy's format, with a header that may be wrong."""
    text = header or f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1") + bytes(size)


@pytest.mark.parametrize(
    "data",
    [
        member("(3298534883328,)"),
        member("(12, 6, 6)"),
        member("(11, 6, 5)"),
        member("(12, -6, -5)"),
        member("(True, 360)"),
        member("12"),
        member(dtype="'<f9'"),
        member(dtype="[('a', '|u1'), ('a', '|u1')]"),
        member(header="(" * 5000),
        member(header="-" * 9000 + "1"),
        member(header="{" * 90 + "1" + "}" * 90),
        member(header="{'descr': '|u1', 'shape': (12, 6, 5), 'fortran_order': 0}"),
        member(header="'\\d"),
        member(version=9),
        member(header="x" * 10, version=2)[:-300],
        b"",
        b"\x93NUM",
    ],
)
def test_damaged_headers(tmp_path, data):
    path = write_npz(tmp_path / "a.npz", train_images=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", data)
    for call in (describe, lambda settings: load(settings, seed=0)):
        with pytest.raises(DataError, match=r"a\.npz, array train_images, cannot be read as an array of NumPy's: "):
            call(settings_for(path))


@pytest.mark.parametrize("dtype", ["M8[s]", "c8", "S3", "V4", [("a", "u1")]])
def test_pixels_of_other_types(tmp_path, dtype):
    path = write_npz(tmp_path / "a.npz", train_images=np.zeros((12, 6, 5), dtype))
    assert "train_images: pixels are" in errors_of(path)[0]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_any_compression(tmp_path, compression):
    plain, path = write_npz(tmp_path / "plain.npz"), tmp_path / "a.npz"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert load(settings_for(path), seed=0).train.num_images == 11
    whole = path.read_bytes()
    for place in range(40, len(whole) - 1, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            load(settings_for(path), seed=0)
        except DataError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("names", ["<U0", ["a", "b", "\ud800"]])
def test_class_names_that_are_no_text(tmp_path, names):
    names = np.zeros(3, names) if names == "<U0" else np.array(names)
    with pytest.raises(DataError, match="class_names"):
        describe(settings_for(write_npz(tmp_path / "a.npz", class_names=names)))


def test_what_systems_leave_in_an_archive_and_arrays_without_end(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._train_images.npy", b"no array")
    assert describe(settings_for(path)).train_images == 12
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(200):
            archive.writestr(f"array{number}.npy", b"")
    lines = errors_of(path)
    assert len(lines) == 51
    assert lines[-1] == "and 150 more problems"


def test_a_damaged_directory_does_not_hide_an_array(tmp_path):
    path = write_npz(tmp_path / "a.npz", class_names=np.array(["a", "b", "c"]))
    data = bytearray(path.read_bytes())
    *_, before, last = (place for place in range(len(data)) if data.startswith(b"PK\1\2", place))
    data[before + 32] = data.index(b"PK\5\6") - last  # the comment of one member is now the next member
    path.write_bytes(data)
    with pytest.raises(DataError, match="its directory shows 4 members of 5"):
        describe(settings_for(path))
    data[before + 32] = 0
    data[last + 28 : last + 32] = bytes([0, 0, data[last + 28], 0])  # its name is now something else about it
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz cannot be read as a \.npz file"):
        describe(settings_for(path))
